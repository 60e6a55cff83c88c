"""Outputs of equal shape, stacked so that each loss runs once for all decoder layers.

Shape legend: B images, Q queries, N = B·Q, K classes, R = reg_max bins, L outputs, M pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detrkit.losses.matches import Matching

LayerOutputs = Mapping[str, Any]
#: A normaliser: a number, or () on the device when several processes train together.
Scale = float | Tensor
#: Values of a loss, and the outputs of the stack that they belong to (None: all).
Values = tuple[Tensor, Sequence[int] | None]


@dataclass(frozen=True)
class Stack:
    """L outputs of the detector and what they should say.

    Attributes:
        suffixes: what the names of each output's losses end with: "", "_aux_0", "_dn_pre".
        outputs: the L outputs as the detector gave them.
        logits: (L, N, K) float32.
        boxes: (L, N, 4) float32, cxcywh, 0–1.
        true_boxes: (T, 4) boxes_cxcywh of the whole batch.
        labels: (T,) their classes.
        class_pairs: pairs for the class losses, M the same for each output.
        box_pairs: pairs for the box losses.
        class_scale: divides the class losses.
        box_scale: divides the box losses.
        means_over: how many matched and how many queries in all the means of the distillation
            are taken over, N of them in this stack.
        counted: (N,) bool, whose class losses count; None: all.
    """

    suffixes: list[str]
    outputs: Sequence[LayerOutputs]
    logits: Tensor
    boxes: Tensor
    true_boxes: Tensor
    labels: Tensor
    class_pairs: Matching
    box_pairs: Matching
    class_scale: Scale
    box_scale: Scale
    means_over: tuple[float, float] = (0, 0)
    counted: Tensor | None = None

    @classmethod
    def of(
        cls,
        named: Mapping[str, LayerOutputs],
        true_boxes: Tensor,
        labels: Tensor,
        class_pairs: Matching,
        box_pairs: Matching,
        class_scale: Scale,
        box_scale: Scale,
        means_over: tuple[float, float] = (0, 0),
        counted: Tensor | None = None,
    ) -> Stack:
        """Stacks outputs by suffix. Pairs given for one output hold for all."""
        outputs = list(named.values())
        layers = len(outputs)
        return cls(
            suffixes=list(named),
            outputs=outputs,
            logits=torch.stack([o["pred_logits"].flatten(0, 1) for o in outputs]).float(),
            boxes=torch.stack([o["pred_boxes"].flatten(0, 1) for o in outputs]).float(),
            true_boxes=true_boxes,
            labels=labels,
            class_pairs=Matching(*(index.expand(layers, -1) for index in class_pairs)),
            box_pairs=Matching(*(index.expand(layers, -1) for index in box_pairs)),
            class_scale=class_scale,
            box_scale=box_scale,
            means_over=means_over,
            counted=counted,
        )

    def pairs(self, matching: Matching) -> tuple[Tensor, Tensor]:
        """Predicted and true boxes of the pairs, (L, M, 4) each, cxcywh."""
        return self.boxes[matching.rows(), matching.queries], self.true_boxes[matching.targets]

    def having(self, key: str) -> list[int]:
        """Which outputs have `key`."""
        return [i for i, output in enumerate(self.outputs) if output.get(key) is not None]


def edges_of(corners: Tensor, reg_max: int) -> Tensor:
    """(B, Q, 4·(R+1)) edge logits -> (N, 4, R + 1) float32."""
    return corners.float().reshape(-1, 4, reg_max + 1)


def take(values: Tensor, rows: Sequence[int]) -> Tensor:
    """`values[rows]`, which would send `rows` to the device and wait for it."""
    return torch.stack([values[row] for row in rows])
