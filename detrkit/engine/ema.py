"""Exponential moving average of a model's weights.

    average <- d * average + (1 - d) * weights,   d = decay * (1 - exp(-updates / warmups))

Parameters and floating-point buffers (batch-norm statistics) are averaged; integers keep their
first value, as in the authors' code.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.registry import MODULES


@MODULES.register(family="engine")
class ModelEMA:
    """Keeps averaged weights in `module`, a frozen copy of the model in eval mode.

    Args:
        model: the model to follow; on its device already.
        decay: share of the old average that stays, at most; may be changed between updates.
        warmups: updates over which the decay rises; 0: constant.
        start: calls of `update` that do nothing at first.
    """

    def __init__(
        self, model: nn.Module, decay: float = 0.9999, warmups: int = 1000, start: int = 0
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie in 0-1, got {decay}")
        self.module = deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.warmups = warmups
        self.start = start
        self.skipped = 0
        self.updates = 0

    def decay_now(self) -> float:
        """The decay of the latest update."""
        if self.warmups <= 0:
            return self.decay
        return self.decay * (1 - math.exp(-self.updates / self.warmups))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the model's present weights."""
        if self.skipped < self.start:
            self.skipped += 1
            return
        self.updates += 1
        decay = self.decay_now()
        current = model.state_dict()
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for name, average in self.module.state_dict().items():
            if average.is_floating_point():
                averages.append(average)
                values.append(current[name])
        torch._foreach_mul_(averages, decay)
        torch._foreach_add_(averages, values, alpha=1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """`module` and `updates`, as the authors store them, and `skipped`."""
        return {
            "module": self.module.state_dict(),
            "updates": self.updates,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; reads the authors' as well."""
        self.module.load_state_dict(state["module"])
        self.updates = int(state.get("updates", 0))
        self.skipped = int(state.get("skipped", self.start if self.updates else 0))
