"""A detector's reply to one picture, with what it was computed from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detrkit.engine.predictor import DEFAULT_SCORE, Predictor
from detrkit.engine.runtime import Runtime, TorchRuntime
from detrkit.errors import UsageError
from detrkit.explain.layers import Recorder, network, torch_runtime
from detrkit.explain.opened import Opened
from detrkit.explain.ranking import ranking_of
from detrkit.models.outputs import Outputs
from detrkit.structures import Detections


class NoSuchDetection(UsageError):
    """A detection was asked for by its number, and there are fewer."""


@dataclass(frozen=True)
class Reply:
    """What a detector says about a picture.

    Attributes:
        found: N detections in its pixels, best first.
        queries: (N,) which query each of them comes from.
        outputs: of the model, (1, …); with a graph where gradients were asked for.
    """

    found: Detections
    queries: npt.NDArray[np.int64]
    outputs: Outputs

    def __len__(self) -> int:
        return len(self.found)

    def numbered(self, numbers: Sequence[int]) -> list[int]:
        """Numbers of detections, 0 the best, each once.

        Raises:
            NoSuchDetection: fewer were found.
        """
        count = len(self)
        for number in numbers:
            if not 0 <= number < count:
                raise NoSuchDetection(
                    f"no detection {number}: {count} were found"
                    + (f", 0 to {count - 1}" if count else ""),
                    hint="a lower --conf shows more",
                )
        return list(dict.fromkeys(numbers))

    def only(self, numbers: Sequence[int] | None) -> Reply:
        """With these detections alone; None: with all.

        Raises:
            NoSuchDetection: fewer were found.
        """
        if numbers is None:
            return self
        rows = np.array(self.numbered(numbers), dtype=np.int64)
        return Reply(self.found.select(rows), self.queries[rows], self.outputs)

    def logit(self, index: int) -> Tensor:
        """The class logit of a detection."""
        label = int(self.found.labels[index])
        return self.outputs["pred_logits"][0, int(self.queries[index]), label].float()

    def edges(self, index: int) -> Tensor:
        """Left, top, right and bottom edge of a detection in fractions of the input, outwards."""
        cx, cy, w, h = self.outputs["pred_boxes"][0, int(self.queries[index])].float()
        return torch.stack([w / 2 - cx, h / 2 - cy, cx + w / 2, cy + h / 2])


def ask(
    detector: Predictor | Runtime,
    image: Opened,
    *,
    record: Iterable[str] = (),
    gradients: bool = False,
    conf: float = DEFAULT_SCORE,
    classes: Sequence[str | int] | None = None,
    max_det: int = 300,
) -> tuple[Reply, Recorder]:
    """Runs the detector on a picture in float32, as `predict` does.

    Args:
        detector: a checkpoint's.
        image: opened for it.
        record: layers to note.
        gradients: whether derivatives by them will be asked for.
        conf: lowest score of the detections.
        classes: names or indices; None: all.
        max_det: at most so many detections.

    Raises:
        UsageError: an exported file; an unknown class or layer.
    """
    runtime = torch_runtime(detector)
    wanted = None if classes is None else runtime.class_map.indices(classes)
    recorder = Recorder(network(runtime), record)
    with torch.set_grad_enabled(gradients), recorder:
        outputs: Outputs = network(runtime)(image.input.detach().requires_grad_(gradients))
    return _reply(runtime, image, outputs, conf, wanted, max_det), recorder


def _reply(
    runtime: TorchRuntime,
    image: Opened,
    outputs: Outputs,
    conf: float,
    classes: Sequence[int] | None,
    max_det: int,
) -> Reply:
    processor = ranking_of(runtime)
    with torch.no_grad():
        (found,) = processor.postprocess(
            outputs, [image.size], image.spec, runtime.class_map, paths=[image.path]
        )
        _, queries, _ = processor.rank(outputs["pred_logits"].float())
    keep = found.scores >= conf
    if classes is not None:
        keep &= np.isin(found.labels, classes)
    rows = np.flatnonzero(keep)[:max_det]
    return Reply(found.select(rows), queries[0].cpu().numpy()[rows], outputs)


def detection_arrays(found: Detections) -> dict[str, npt.NDArray[Any]]:
    """Boxes, scores and labels of detections by these names, for `.npz`."""
    return {"boxes_xyxy": found.boxes_xyxy, "scores": found.scores, "labels": found.labels}
