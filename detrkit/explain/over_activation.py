"""Where a detector sees objects in images in which there is nothing to find.

The numbers are those of `detrkit.metrics.over_activation`; added is where in the picture false
detections lie, and which queries and levels of the encoder's maps they come from.

Shape legend: N images that could be read, M false detections, G cells of the maps in each
direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from detrkit.data.image_check import check_bands
from detrkit.data.index import DatasetIndex
from detrkit.engine.predictor import Predictor
from detrkit.engine.runtime import Runtime
from detrkit.explain.decoder_trace import DecoderTrace
from detrkit.explain.images import batches_of, spread
from detrkit.explain.layers import network, torch_runtime
from detrkit.explain.ranking import answers_of
from detrkit.metrics import FalseDetections, Negatives
from detrkit.metrics.over_activation import THRESHOLDS
from detrkit.structures import Detections

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: Cells of the maps in each direction.
CELLS = 64


@dataclass(frozen=True)
class OverActivationMaps:
    """False detections and their places. Boxes are cxcywh, in fractions of the picture.

    Attributes:
        negatives: the images and what was found in them.
        conf: score from which on a detection is mapped.
        boxes: (M, 4).
        scores: (M,) 0–1.
        labels: (M,) class indices.
        images: (M,) which of the N images each is in.
        queries: (M,) number of the query that made it.
        levels: (M,) level of the encoder's maps that the query comes from, 0 the finest.
        strides: pixels of the input per position, level by level.
    """

    negatives: Negatives
    conf: float
    boxes: Floats
    scores: Floats
    labels: Ints
    images: Ints
    queries: Ints
    levels: Ints
    strides: tuple[float, ...]

    @property
    def activation(self) -> Floats:
        """(G, G) the highest score of a false detection over a cell, on average over all images.

        A cell counts as covered where a box covers its centre.
        """
        return self._over_cells(np.add) / max(len(self.negatives.found.paths), 1)

    @property
    def highest(self) -> Floats:
        """(G, G) the highest score of a false detection over a cell, of all images."""
        return self._over_cells(np.maximum)

    def _over_cells(self, join: np.ufunc) -> Floats:
        centres = (np.arange(CELLS) + 0.5) / CELLS
        whole = np.zeros((CELLS, CELLS), np.float32)
        for image in np.unique(self.images):
            own = self.images == image
            low = self.boxes[own, :2] - self.boxes[own, 2:] / 2
            high = self.boxes[own, :2] + self.boxes[own, 2:] / 2
            inside = (centres >= low[..., None]) & (centres <= high[..., None])  # (m, 2, G)
            covered = inside[:, 1, :, None] & inside[:, 0, None, :]  # (m, y, x)
            join(whole, (covered * self.scores[own, None, None]).max(0), out=whole)
        return whole

    def figure(self, width: str | float = "page") -> Figure:
        """The maps, classes, and the worst images."""
        from detrkit.explain.figures.over_activation import over_activation_figure

        return over_activation_figure(self, width)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: those of `detrkit eval --negatives`, and the sources."""
        return {
            **self.negatives.to_dict(),
            "conf": self.conf,
            "detections": len(self.scores),
            "queries": np.bincount(self.queries).tolist(),
            "levels": {
                f"{stride:g}": int((self.levels == level).sum())
                for level, stride in enumerate(self.strides)
            },
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per false detection, as it was found."""
        names = self.negatives.index.class_map.names
        paths = self.negatives.found.paths
        keys = ("cx", "cy", "w", "h")
        return [
            {
                "image": paths[image],
                "class": names[label],
                "score": score,
                **dict(zip(keys, box, strict=True)),
                "query": query,
                "stride": self.strides[level],
            }
            for image, label, score, box, query, level in zip(
                self.images.tolist(), self.labels.tolist(), self.scores.tolist(),
                self.boxes.tolist(), self.queries.tolist(), self.levels.tolist(), strict=True,
            )
        ]  # fmt: skip

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """By the names of the attributes, for an `.npz` file."""
        names = (
            *("boxes", "scores", "labels", "images", "queries", "levels"),
            *("activation", "highest"),
        )
        return {
            **{name: getattr(self, name) for name in names},
            "paths": np.array(self.negatives.found.paths),
            "class_names": np.array(self.negatives.index.class_map.names),
        }


def over_activation(
    detector: Predictor | Runtime,
    index: DatasetIndex,
    *,
    conf: float = THRESHOLDS[0],
    limit: int | None = None,
    batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> OverActivationMaps:
    """Runs a detector over images without targets and notes where it sees something.

    Args:
        detector: a checkpoint's.
        index: the images (`detrkit.data.negatives.open_negatives`).
        conf: score from which on a detection is mapped.
        limit: at most so many images, evenly spread.
        batch: images per forward pass.
        progress: called after each batch.

    Raises:
        UsageError: the detector cannot be looked into.
        DataError: no image can be read.
    """
    runtime, model = torch_runtime(detector), network(detector)
    index = spread(index, limit)
    spec = runtime.image_spec
    check_bands(index, spec.in_channels)
    found, broken = FalseDetections(), list[str]()
    rows: list[tuple[int, int, float, Sequence[float], int, int]] = []
    strides: tuple[float, ...] = ()
    batches = -(-len(index) // batch)
    with torch.inference_mode(), DecoderTrace(model) as trace:
        for done, shown in enumerate(batches_of(index, spec, batch, broken), 1):
            if shown:
                outputs = model(torch.stack([image.input for image in shown]).to(runtime.device))
                detected: list[Detections] = runtime.postprocessor.postprocess(
                    outputs, [image.size for image in shown], spec, runtime.class_map
                )
                answers = answers_of(runtime, trace.last.logits)
                strides = tuple(spec.size[0] / h for h, _ in trace.last.shapes)
                levels = trace.last.levels.cpu()
                for place, (image, answer) in enumerate(zip(shown, detected, strict=True)):
                    height, width = image.size
                    x1, y1, x2, y2 = (answer.boxes_xyxy / [width, height, width, height]).T
                    boxes = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], -1)
                    rows += [
                        (len(found.paths), own.label, own.score, box, own.query,
                         int(levels[place, own.query]))
                        for box, own in zip(boxes.tolist(), answers[place], strict=True)
                        if own.score >= conf
                    ]  # fmt: skip
                    found.add(index.paths[image.number], answer)
            if progress is not None:
                progress(done, batches)
    found.broken.update(dict.fromkeys(broken, "cannot be read"))
    found.at(conf)  # says so where none can be read
    images, labels, scores, places, queries, of_level = (
        zip(*rows, strict=True) if rows else [()] * 6
    )
    return OverActivationMaps(
        negatives=Negatives(index, found),
        conf=conf,
        boxes=np.array(places, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int64),
        images=np.array(images, np.int64),
        queries=np.array(queries, np.int64),
        levels=np.array(of_level, np.int64),
        strides=strides,
    )
