"""What observers are told of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from detrkit.engine.observers.base import EpochReport, StepReport
from detrkit.engine.plan import Stage
from detrkit.structures import Batch

if TYPE_CHECKING:
    from detrkit.engine.trainer import Trainer


def step_report(
    trainer: Trainer,
    losses: Mapping[str, Tensor],
    norm: Tensor,
    batch: Batch,
    seconds: float,
    wait_seconds: float,
) -> StepReport:
    """Of the step that has just been made; arguments as the fields of `StepReport`."""
    state = trainer.state
    return StepReport(
        phase="train",
        epoch=state.epoch,
        epochs=trainer.plan.epochs,
        batch=state.batch,
        batches=len(trainer.loader),
        step=state.step,
        losses=losses,
        lr=trainer.lr,
        grad_norm=norm,
        data=batch,
        lrs=trainer.lrs,
        ema_decay=trainer.ema.decay_now() if trainer.ema else None,
        seconds=seconds,
        wait_seconds=wait_seconds,
    )


def epoch_report(
    trainer: Trainer, stage: Stage, metrics: Mapping[str, float], best: bool
) -> EpochReport:
    """Of the epoch that has just ended; arguments as the fields of `EpochReport`."""
    state = trainer.state
    memory = None
    if trainer.device.type == "cuda":
        memory = round(torch.cuda.max_memory_allocated(trainer.device) / 2**30, 3)
    return EpochReport(
        epoch=state.epoch,
        epochs=trainer.plan.epochs,
        stage=stage.name,
        losses=state.mean_losses(),
        lr=trainer.lr,
        metrics=metrics,
        is_best=best,
        best_metric=trainer.judge.metric,
        best_value=state.best_value,
        best_epoch=state.best_epoch,
        train_seconds=state.train_seconds,
        wait_seconds=state.wait_seconds,
        eval_seconds=state.eval_seconds,
        images_per_second=state.images / max(state.train_seconds, 1e-9),
        memory_gib=memory,
        step=state.step,
        skipped_steps=state.skipped_steps,
        distill_ratio=trainer.distiller.take_ratio() if trainer.distiller else None,
        lrs=trainer.lrs,
        ema_decay=trainer.ema.decay_now() if trainer.ema else None,
    )
