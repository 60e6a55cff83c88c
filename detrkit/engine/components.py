"""Names that the engine's sections of a configuration may use: optimizers, schedules, scaler.

Registered so that the sections are checked against real signatures. Learning rates are not
computed by torch's scheduler objects but by `detrkit.engine.plan`, from the same arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import optim
from torch.amp import GradScaler
from torch.optim import lr_scheduler

from detrkit.engine.ema import ModelEMA
from detrkit.errors import ConfigError
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


@MODULES.register("CocoEvaluator", family="metric")
def coco_evaluator(
    index: Any,
    class_map: Any = None,
    iou_types: Sequence[str] = ("bbox",),
    backend: str | None = None,
) -> Any:
    """COCO average precision of boxes.

    Args:
        index: the validation data.
        class_map: of the detections; default the data's.
        iou_types: only "bbox"; the detectors here find no masks.
        backend: "hotcoco", "pycocotools" or "detrkit"; None: the first that is installed.
    """
    from detrkit.metrics import CocoEvaluator
    from detrkit.metrics.coco import checked_backend

    if tuple(iou_types) != ("bbox",):
        raise ConfigError(f"evaluator.iou_types: only bbox is possible, got {list(iou_types)}")
    return CocoEvaluator(index, class_map, checked_backend(backend))


for _optimizer in (optim.AdamW, optim.Adam, optim.SGD):
    MODULES.register(family="optimizer")(_optimizer)
for _scheduler in (lr_scheduler.MultiStepLR, lr_scheduler.CosineAnnealingLR):
    MODULES.register(family="schedule")(_scheduler)
MODULES.register("GradScaler", family="engine")(GradScaler)
