"""Keeps a step whose numbers are not finite away from all that lasts.

Such a step is dropped: weights, the optimizer's state, batch norm's statistics and the averaged
weights stay as they were before it. Finite is what all processes find finite, so that they
decide alike.

With a fused optimizer on a GPU the decision stays on the device: the optimizer is handed a flag,
as a gradient scaler does, and statistics and averages are chosen by it. So the host never waits.
Elsewhere the host reads the flag, which on a CPU costs nothing.

With a loss scaler (fp16), gradients that overflow are a normal step of its search: they are left
out as well, but nothing was wrong unless the losses are not finite either, or the scale is below
1 and still too large.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detrkit.engine.amp import LossScaler
from detrkit.engine.buffers import Statistics
from detrkit.engine.distributed.group import in_any
from detrkit.engine.ema import ModelEMA
from detrkit.phases import phase


class Safeguard:
    """Around each step: `begin`, then gradients, then `update`; or `undo` in between.

    Args:
        optimizer: of the weights.
        on_device: the host does not look; default on a GPU, where the optimizer is fused.

    Attributes:
        bad: () bool on the device: whether the latest step was dropped.
        masked: whether the host does not know.
        untouched: whether the step in progress has changed nothing yet that `undo` cannot undo.
    """

    def __init__(self, optimizer: Optimizer, on_device: bool | None = None) -> None:
        self.optimizer = optimizer
        fused = bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        first = optimizer.param_groups[0]["params"][:1]
        on_gpu = bool(first) and first[0].is_cuda
        self.on_device = fused and (on_gpu if on_device is None else on_device)
        self.bad = torch.zeros((), dtype=torch.bool)
        self.masked = False
        self.untouched = True
        self._statistics = Statistics()

    def begin(self, model: nn.Module) -> None:
        """Before the forward pass of `model` (not its distributed wrapper)."""
        self.untouched = True
        self._statistics.keep(model)

    def undo(self) -> None:
        """Back to before `begin`, from anywhere before `update`."""
        self._statistics.bring_back()
        self.optimizer.zero_grad(set_to_none=True)

    def update(
        self,
        model: nn.Module,
        losses: Mapping[str, Tensor],
        norm: Tensor,
        scaler: LossScaler,
        ema: ModelEMA | None = None,
    ) -> None:
        """Moves weights and averages, unless the step is not finite. Every process must call it.

        Args:
            model: of `begin`.
            losses: of the step.
            norm: of the gradients, which are unscaled and clipped.
            scaler: of the losses.
            ema: to be updated, in the process that keeps it.
        """
        bad = ~torch.stack([value.float() for value in losses.values()]).sum().isfinite()
        if scaler.is_enabled():
            overflow = scaler.overflowed(self.optimizer)
            self.bad = in_any(bad | (overflow & (scaler.present_scale < 1)))
            leave_out = overflow | self.bad
        else:
            self.bad = leave_out = in_any(bad | ~norm.isfinite())
        # an optimizer that has no state yet would take it from a gradient that is not finite
        self.masked = self.on_device and bool(self.optimizer.state)
        self.untouched = False
        with phase("optimizer"):
            if self.masked:
                self._step_unless(leave_out)
                self._statistics.bring_back(where=self.bad)
            elif self.bad:
                self._statistics.bring_back()
            elif not leave_out:
                self.optimizer.step()
            scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
        if ema and (self.masked or not self.bad):
            with phase("ema"):
                ema.update(model, unless=self.bad if self.masked else None)

    def _step_unless(self, flag: Tensor) -> None:
        """A step of a fused optimizer; its kernels look at the flag."""
        optimizer: Any = self.optimizer  # these two are PyTorch's own names, in no class
        optimizer.grad_scale, optimizer.found_inf = None, flag.float()
        try:
            optimizer.step()
        finally:
            del optimizer.grad_scale, optimizer.found_inf
