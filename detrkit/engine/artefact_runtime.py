"""What all exported detectors have in common, whichever library computes them.

    images             (N, C, h, w) float32, as `ImageSpec.normalized` gives it
    orig_target_sizes  (N, 2) int64, (width, height) of the original images
    labels, boxes, scores   (N, n), boxes_xyxy (N, n, 4) in original pixels, (N, n)

A runtime opens its file in `_open`, which tells the shapes of the inputs and what the file says of
itself, and computes one batch in `compute`; the rest is here.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detrkit.engine.known_classes import coco_classes
from detrkit.engine.runtime import RunOptions, Runtime, resized_batch
from detrkit.errors import UsageError, WeightsError
from detrkit.export.metadata import Metadata
from detrkit.structures import ClassMap, Detections, ImageSpec

log = logging.getLogger("detrkit")

INPUTS = ("images", "orig_target_sizes")
OUTPUTS = ("labels", "boxes", "scores")

#: Length of a dimension; None: free.
Shape = Sequence[int | None]
#: labels (N, n) int64, boxes_xyxy (N, n, 4) and scores (N, n) float32.
Answer = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]


@dataclass(frozen=True)
class Opened:
    """What is known of a file once it is open.

    Attributes:
        device: where it runs.
        shape: of `images`, (N, C, h, w).
        metadata: what the file says of itself; None for files of others.
        precision: of the arithmetic, where it is not the one that the file names.
        batches: fewest and most images per call, where the shape does not tell.
        sizes: smallest and largest (h, w) of the input, likewise.
    """

    device: torch.device
    shape: Shape
    metadata: Metadata | None
    precision: str | None = None
    batches: tuple[int, int] | None = None
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None


class ArtefactRuntime(Runtime):
    """An exported detector.

    Args:
        path: the file.
        device: None: the best that there is for the kind of file.
        size: (h, w) of the input; None: as the file says.
        options: those named in `takes` count.

    Attributes:
        precision: of the arithmetic, where the file says: "fp32", "fp16", "bf16", "int8".
        takes_device_tensors: `compute` also takes tensors that are on `device` already.

    Raises:
        WeightsError: missing, damaged, with other inputs and outputs, or exported without its
            postprocessor.
        UsageError: the device is not available, or the size not one that the file takes.
        MissingExtraError: the library that runs it is not installed.
    """

    takes: ClassVar[tuple[str, ...]] = ()
    takes_device_tensors: ClassVar[bool] = False

    def __init__(
        self,
        path: Path,
        device: str | torch.device | None = None,
        size: tuple[int, int] | None = None,
        options: RunOptions | None = None,
    ) -> None:
        options = options or RunOptions()
        if not path.is_file():
            raise WeightsError(f"model file not found: {path}")
        options.warn_unused(path, self.takes)
        self.path = path
        opened = self._open(device, options)
        self.device = opened.device
        self.metadata = metadata = opened.metadata
        said = metadata.precision if metadata is not None else "not known"
        self.precision: str = opened.precision or said
        batch, channels, height, width = opened.shape
        fixed = (height, width) if height is not None and width is not None else None
        if opened.batches is not None:
            self.fewest, self.most = opened.batches
        elif batch is not None:
            self.fewest = self.most = batch
        if metadata is None:
            known = _input_size(path, fixed, size)
            self.image_spec, self.class_map = self._undescribed(known, channels or 3)
        else:
            if metadata.outputs != "detections":
                raise WeightsError(
                    f"{path} gives the decoder's raw heads, not detections",
                    hint="export it without --raw",
                )
            wanted = size or metadata.image_spec.size
            known = _input_size(path, fixed, wanted, asked=size is not None)
            self.image_spec = replace(metadata.image_spec, size=known)
            self.class_map = metadata.class_map
        if opened.sizes is not None:
            _check_size(path, known, *opened.sizes)

    @abstractmethod
    def _open(self, device: str | torch.device | None, options: RunOptions) -> Opened:
        """Makes `compute` work; the arguments are those of the constructor."""

    def predict(
        self, images: Sequence[Tensor], paths: Sequence[str | None] | None = None
    ) -> list[Detections]:
        found: list[Detections] = []
        step = self.most or max(len(images), 1)
        for first in range(0, len(images), step):
            part = images[first : first + step]
            found += self._run(part, paths[first : first + step] if paths is not None else None)
        return found

    @abstractmethod
    def compute(self, images: Tensor, sizes: Tensor) -> Answer:
        """One batch: `images` and `orig_target_sizes` on the CPU -> labels, boxes, scores.

        Several threads may call it at once.
        """

    def _undescribed(self, size: tuple[int, int], channels: int) -> tuple[ImageSpec, ClassMap]:
        """What is assumed of a file that says nothing of itself."""
        log.warning(
            "%s says nothing of its classes and colours: taken for COCO's, RGB from 0 to 1",
            self.path,
        )
        return ImageSpec(size, in_channels=channels), coco_classes()

    def _run(
        self, images: Sequence[Tensor], paths: Sequence[str | None] | None
    ) -> list[Detections]:
        """One call; a batch that is too small is filled up with its last image."""
        filled = [*images, *[images[-1]] * (self.fewest - len(images))]
        with self.watch.over("preprocess"):
            pixels = self.image_spec.normalized(resized_batch(self.image_spec, filled))
        extents = np.array(
            [self.image_spec.extent((i.shape[-2], i.shape[-1]))[::-1] for i in filled]
        )  # (N, 2) width, height
        sizes = extents.round().astype(np.int64)
        # padded pictures rarely measure whole pixels, which is all that a file takes
        rest = np.tile(extents / sizes, 2).astype(np.float32)
        with self.watch.over("model"):
            labels, boxes, scores = self.compute(pixels, torch.from_numpy(sizes))
        self.watch.images += len(images)
        with self.watch.over("postprocess"):
            return [
                self._detections(
                    image,
                    labels[i],
                    boxes[i] * rest[i],
                    scores[i],
                    None if paths is None else paths[i],
                )
                for i, image in enumerate(images)
            ]

    def _detections(
        self,
        image: Tensor,
        labels: npt.NDArray[Any],
        boxes: npt.NDArray[Any],
        scores: npt.NDArray[Any],
        path: str | None,
    ) -> Detections:
        """The answer for one image, best score first."""
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.class_map):
            raise WeightsError(
                f"{self.path} answers with class {labels.max()}, but it has only "
                f"{len(self.class_map)} classes",
                hint="export it without category ids (remap_mscoco_category: False)",
            )
        order = np.argsort(-scores, kind="stable")
        return Detections(
            boxes_xyxy=boxes[order].astype(np.float32),
            scores=scores[order].astype(np.float32),
            labels=labels[order].astype(np.int64),
            class_map=self.class_map,
            orig_size=(image.shape[-2], image.shape[-1]),
            path=path,
        )


def check_names(path: Path, inputs: Iterable[str], outputs: Iterable[str]) -> None:
    """Whether a file has the inputs and outputs of a detector.

    Raises:
        WeightsError: it has not.
    """
    given, answers = list(inputs), list(outputs)
    if set(given) != set(INPUTS) or not set(OUTPUTS) <= set(answers):
        raise WeightsError(
            f"{path}: inputs {', '.join(given)} and outputs {', '.join(answers)} are not "
            f"those of the authors' exporters",
            hint=f"wanted are the inputs {', '.join(INPUTS)} and the outputs {', '.join(OUTPUTS)}",
        )


def read_metadata(content: Mapping[str, Any], key: str, path: Path) -> Metadata | None:
    """What a file says of itself under `key`; None where it says nothing.

    Raises:
        WeightsError: the text is damaged.
    """
    text = content.get(key)
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return Metadata.from_json(str(text), str(path)) if text else None


def _input_size(
    path: Path,
    fixed: tuple[int, int] | None,
    wanted: tuple[int, int] | None,
    *,
    asked: bool = True,
) -> tuple[int, int]:
    """(h, w) of the input.

    Args:
        path: for messages.
        fixed: what alone the file takes.
        wanted: by the user or by the file's description.
        asked: `wanted` is the user's.
    """
    if fixed is not None and asked and wanted not in (None, fixed):
        raise UsageError(f"{path} only takes images of {fixed[0]}x{fixed[1]} (height x width)")
    size = fixed or wanted
    if size is None:
        raise UsageError(
            f"{path} takes images of any size, so it does not say which it was trained with",
            hint="name it: --size 640, or --size HEIGHTxWIDTH",
        )
    return size


def _check_size(
    path: Path, size: tuple[int, int], least: tuple[int, int], most: tuple[int, int]
) -> None:
    (h, w), (low_h, low_w), (high_h, high_w) = size, least, most
    if not (low_h <= h <= high_h and low_w <= w <= high_w):
        raise UsageError(
            f"{path} takes images of {low_h}x{low_w} to {high_h}x{high_w} (height x width), "
            f"not of {h}x{w}"
        )
