"""TensorBoard events in the run's folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from detrkit.engine.observers.base import EpochReport, Observer, StepReport


class TensorBoard(Observer):
    """Losses and rates every few steps, metrics every epoch.

    Args:
        folder: where events go.
        first_step: events from this step on, left by an interrupted run, are hidden.
        every: steps between two points of a training curve; reading a loss waits for the device.
    """

    def __init__(self, folder: Path, first_step: int = 0, every: int = 10) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensorboard's own imports warn on new Pythons
            from torch.utils.tensorboard import SummaryWriter

            self.writer: Any = SummaryWriter(
                str(folder), purge_step=first_step if first_step else None
            )
        self.every = every

    def step(self, report: StepReport) -> None:
        """Losses, rate and gradient norm."""
        if report.phase != "train" or report.step % self.every:
            return
        losses = {name: float(value) for name, value in report.losses.items()}
        self.writer.add_scalar("train/loss", sum(losses.values()), report.step)
        for name, value in losses.items():
            if name.count("_") == 1:  # the final layer's terms; the auxiliary ones fill screens
                self.writer.add_scalar(f"train/{name}", value, report.step)
        self.writer.add_scalar("train/lr", report.lr, report.step)
        if report.grad_norm is not None:
            self.writer.add_scalar("train/grad_norm", float(report.grad_norm), report.step)

    def epoch(self, report: EpochReport) -> None:
        """Metrics, at the epoch's last step."""
        for name, value in report.metrics.items():
            self.writer.add_scalar(f"val/{name}", value, report.step)
        self.writer.add_scalar("train/images_per_second", report.images_per_second, report.step)
        self.writer.add_scalar("train/data_wait", report.data_wait, report.step)
        self.writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self.writer.close()
