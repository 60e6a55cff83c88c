"""Names that the engine's sections of a configuration may use: optimizers, schedules, scaler.

Registered so that the sections are checked against real signatures. Learning rates are not
computed by torch's scheduler objects but by `detrkit.engine.plan`, from the same arguments.
"""

from __future__ import annotations

from torch import optim
from torch.amp import GradScaler
from torch.optim import lr_scheduler

from detrkit.engine.ema import ModelEMA
from detrkit.registry import MODULES

__all__ = ["LinearWarmup", "ModelEMA"]


@MODULES.register(family="schedule")
class LinearWarmup:
    """Raises the rate linearly: step i (from 0) runs at (i + 1) / warmup_duration.

    Args:
        warmup_duration: steps; 0: no warm-up.
        lr_scheduler: the schedule behind it; named by the authors' files, not needed here.
        last_step: the step before the first.
    """

    def __init__(
        self, warmup_duration: int, lr_scheduler: object = None, last_step: int = -1
    ) -> None:
        if warmup_duration < 0:
            raise ValueError(f"warmup_duration must not be negative, got {warmup_duration}")
        self.warmup_duration = warmup_duration
        self.lr_scheduler = lr_scheduler
        self.last_step = last_step


for _optimizer in (optim.AdamW, optim.Adam, optim.SGD):
    MODULES.register(family="optimizer")(_optimizer)
for _scheduler in (lr_scheduler.MultiStepLR, lr_scheduler.CosineAnnealingLR):
    MODULES.register(family="schedule")(_scheduler)
MODULES.register("GradScaler", family="engine")(GradScaler)
