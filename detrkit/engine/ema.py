"""Exponential moving average of a model's weights.

    average <- d * average + (1 - d) * weights,   d = decay * (1 - exp(-updates / warmups))

Parameters and floating-point buffers (batch-norm statistics) are averaged; integers keep their
first value, as in the authors' code.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from detrkit.engine.buffers import persistent_buffers
from detrkit.registry import MODULES

#: A tensor by the dictionary of the module that owns it. Buffers may be assigned anew at any time,
#: so the tensor itself must not be remembered; walking the modules every step would cost more
#: than averaging.
_Slot = tuple[dict[str, Tensor], str]


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
        self._slots = _slots(self.module)
        self._followed: nn.Module | None = None
        self._sources: list[_Slot] = []

    def decay_now(self) -> float:
        """The decay of the latest update."""
        if self.warmups <= 0:
            return self.decay
        return self.decay * (1 - math.exp(-self.updates / self.warmups))

    @torch.no_grad()
    def update(self, model: nn.Module, unless: Tensor | None = None) -> None:
        """Moves the average towards the model's present weights.

        Args:
            model: its weights must be finite.
            unless: () bool on the device: the average stays where it is. The host does not know,
                so the update counts until `take_back`.
        """
        if self.skipped < self.start:
            self.skipped += 1
            return
        self.updates += 1
        averages = [owner[name] for owner, name in self._slots]
        if self._followed is not model:
            self._followed, self._sources = model, _slots(model, len(averages))
        values = [owner[name] for owner, name in self._sources]
        if unless is None:
            # average + (1 - d) (value - average): the formula above in one pass over memory
            torch._foreach_lerp_(averages, values, 1 - self.decay_now())
        else:
            changes = torch._foreach_sub(values, averages)
            torch._foreach_mul_(changes, torch.where(unless, 0.0, 1 - self.decay_now()))
            torch._foreach_add_(averages, changes)

    def take_back(self) -> None:
        """An update turned out to have been left out: it does not count."""
        if self.updates:
            self.updates -= 1
        else:
            self.skipped -= 1

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


def _slots(model: nn.Module, expected: int | None = None) -> list[_Slot]:
    """Every floating-point tensor of the state dict, once each, in order.

    A tensor that two modules share must not be averaged twice per step.
    """
    slots: list[_Slot] = []
    seen: set[int] = set()
    for module in model.modules():
        for owner, members in (
            (module._parameters, module._parameters),
            (module._buffers, persistent_buffers(module)),
        ):
            for name, value in members.items():
                if value is None or not value.is_floating_point() or id(value) in seen:
                    continue
                seen.add(id(value))
                slots.append((cast("dict[str, Tensor]", owner), name))
    if expected is not None and len(slots) != expected:
        raise ValueError(f"the model has {len(slots)} tensors to average, its copy {expected}")
    return slots
