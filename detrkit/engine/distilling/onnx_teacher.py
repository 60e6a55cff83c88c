"""An ONNX file as teacher: detections only, each with the score of one class.

What the file lists several times under other classes is one box with several scores. Classes that
it does not list for a box have a score of almost zero there, lower than the lowest listed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detrkit.distillation.teacher import Answers, Respec
from detrkit.engine.download import locate
from detrkit.engine.onnx_runtime import OnnxRuntime
from detrkit.ops.boxes import inverse_sigmoid, xyxy_to_cxcywh
from detrkit.structures import ImageSpec

#: Score of a class that was not listed.
_UNLISTED = 1e-4


class OnnxTeacher:
    """See the module.

    Args:
        path: file or URL.
        student: how the batches were prepared.
        device: of the student.

    Attributes:
        class_map, image_spec: of the file.
        says_classes: whether the file names its classes, or they are a guess.
        classes: (student's, teacher's) indices of the shared classes; set by the opener.
    """

    def __init__(self, path: str | Path, student: ImageSpec, device: torch.device) -> None:
        self.runtime = OnnxRuntime(locate(path), device)
        self.image_spec, self.class_map = self.runtime.image_spec, self.runtime.class_map
        self.classes: tuple[list[int], list[int]] = ([], [])
        self.says_classes = self.runtime.metadata is not None
        self._respec = Respec(student, self.image_spec, self.image_spec.size)

    def __call__(self, images: Tensor) -> Answers:
        """Answers for the student's batch (B, C, H, W)."""
        with torch.no_grad():
            pixels = self._respec(images).float().cpu()
        found = [
            self.runtime.compute(part.contiguous(), torch.ones(len(part), 2, dtype=torch.int64))
            for part in self._parts(pixels)
        ]  # of pictures of one pixel: boxes come back as fractions
        labels, boxes, scores = (
            torch.from_numpy(np.concatenate(parts)[: len(images)])
            for parts in zip(*found, strict=True)
        )
        kinds = len(self.class_map)
        every = torch.full((*labels.shape, kinds + 1), _UNLISTED)
        # the last column takes what is no class of the file's, and goes
        labels = labels.long()
        labels = torch.where((labels < 0) | (labels >= kinds), kinds, labels)
        every.scatter_(2, labels[..., None], scores.float()[..., None])
        every = every[..., :kinds]
        every = _joined(boxes.float(), every)[..., self.classes[1]]
        return Answers(
            inverse_sigmoid(every).to(images.device),
            xyxy_to_cxcywh(boxes.float()).to(images.device),
        )

    def _parts(self, pixels: Tensor) -> list[Tensor]:
        """Batches that the file takes, the last filled up."""
        parts = list(pixels.split(self.runtime.most or len(pixels)))
        missing = self.runtime.fewest - len(parts[-1])
        if missing > 0:
            parts[-1] = torch.cat([parts[-1], parts[-1][-1:].expand(missing, -1, -1, -1)])
        return parts


def _joined(boxes: Tensor, scores: Tensor) -> Tensor:
    """(B, n, 4) and (B, n, K): the first of equal boxes gets the scores of all, the others none."""
    joined = torch.full_like(scores, _UNLISTED)
    for own, given, result in zip(boxes, scores, joined, strict=True):
        _, group = own.unique(dim=0, return_inverse=True)
        position = torch.arange(len(own))
        first = torch.full((len(own),), len(own)).scatter_reduce_(0, group, position, "amin")
        where = first[group]
        result.scatter_reduce_(0, where[:, None].expand_as(given), given, "amax")
    return joined
