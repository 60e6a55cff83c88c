"""What losses of one kind have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
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


class ClassLoss(nn.Module, ABC):
    """A distance between the class scores of two queries."""

    @abstractmethod
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Logits (…, K) twice, the teacher's without gradient -> (…,)."""


@dataclass(frozen=True)
class Edges:
    """Distributions of the edges of M boxes.

    Attributes:
        logits: (M, 4, R + 1): left, top, right, bottom.
        references: (M, 4) boxes_cxcywh that the distances start from, 0–1.
        up: (1,), with `reg_scale` the shape of the weighting function.
        reg_scale: (1,).
    """

    logits: Tensor
    references: Tensor
    up: Tensor
    reg_scale: Tensor

    @property
    def reg_max(self) -> int:
        """R."""
        return self.logits.shape[-1] - 1

    def at(self, rows: Tensor) -> Edges:
        """The boxes of these rows (M',)."""
        return Edges(self.logits[rows], self.references[rows], self.up, self.reg_scale)


class EdgeLoss(nn.Module, ABC):
    """A distance between distributions of box edges."""

    @abstractmethod
    def forward(self, student: Edges, teacher: Edges) -> Tensor:
        """Edges of M pairs, the teacher's without gradient -> (M,)."""
