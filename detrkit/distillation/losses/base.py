"""What all losses between feature maps have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn


class FeatureLoss(nn.Module, ABC):
    """A distance between two maps of one shape; without gradient for the teacher's.

    Attributes:
        default_weight: where the configuration gives none: the paper's, where it has one.
    """

    default_weight: ClassVar[float] = 1.0

    def prepare(self, channels: int) -> FeatureLoss:
        """Makes the layers for maps of so many channels; once, before the first call.

        Returns:
            Itself.
        """
        return self

    @abstractmethod
    def forward(self, student: Tensor, teacher: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """The loss, a mean over the images.

        Args:
            student: (B, C, h, w) float32.
            teacher: (B, C, h, w) float32, without gradient.
            boxes: per image the objects' boxes_cxcywh (N, 4), 0–1.

        Returns:
            ().
        """
