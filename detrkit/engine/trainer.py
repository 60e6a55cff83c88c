"""The training loop.

What changes the training (stages, schedule, averaged weights, checkpoints) is named in `fit` and
`train_step`; what only watches it is an observer. Everything random in a step is a function of
(seed, step, rank), and the order of the data one of (seed, epoch): a run that was interrupted
anywhere continues to the same weights, bit for bit on a CPU with the same number of
threads.

Of several processes each runs this loop on its share of every batch. They decide alike because
they see the same numbers: metrics come from the main process, and a wish to stop or to save
becomes known to all at the same step. Only the main process writes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from detrkit.distillation.distiller import Distiller
from detrkit.engine.accumulation import Backward
from detrkit.engine.amp import LossScaler, Precision
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.data_wait import DataWait
from detrkit.engine.distilling.gradients import GROUP as ADAPTERS
from detrkit.engine.distilling.gradients import finish_gradients
from detrkit.engine.distributed.agreement import Agreement
from detrkit.engine.distributed.group import (
    copy_from_main,
    is_main,
    shared,
    world_size,
)
from detrkit.engine.distributed.replicas import unwrapped
from detrkit.engine.divergence import Policy, Watch
from detrkit.engine.ema import ModelEMA
from detrkit.engine.freezing import Frozen
from detrkit.engine.halving import fitting_step
from detrkit.engine.interrupt import InterruptGuard, Stop
from detrkit.engine.judging import Judge
from detrkit.engine.keeper import Keeper
from detrkit.engine.oa_watch import OverActivationWatch
from detrkit.engine.observers.base import Observer, StepReport
from detrkit.engine.optim import group_names, load_optimizer_state, set_lr_factor
from detrkit.engine.plan import Plan, Stage
from detrkit.engine.randomness import fixed_order, seed_step
from detrkit.engine.reporting import epoch_report, step_report
from detrkit.engine.rescue import rescue, save_interrupted
from detrkit.engine.safeguard import Safeguard
from detrkit.engine.state import TrainState
from detrkit.phases import phase
from detrkit.structures import Batch

log = logging.getLogger("detrkit")


class TrainLoader(Protocol):
    """What the trainer needs of a loader."""

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Order and augmentation of `epoch`, from its batch `start_batch` on."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Any: ...


class ModelEvaluator(Protocol):
    """What the trainer needs of an evaluator."""

    def run(self, model: nn.Module, progress: Callable[[int, int], None] | None = None) -> Any:
        """Metrics of `model`; `.values` is {"AP": …}."""


@dataclass
class Trainer:
    """Trains a detector.

    Attributes:
        model: on its device; may be wrapped for distributed training.
        criterion: (outputs, targets, epoch) -> weighted losses.
        optimizer: with `initial_lr` in every group.
        loader: training batches.
        plan: stages and schedule.
        keeper: writes checkpoints.
        evaluator: measures on the validation data; None: there are none.
        ema: averaged weights; None: the model's own are evaluated and kept.
        precision: of the forward pass.
        clip_max_norm: gradients are scaled down to this norm; 0: never.
        policy: for steps that are not finite.
        observers: watch.
        seed, rank: randomness of a step.
        accumulate: parts in which a batch goes through the model.
        judge: which epoch is the best, and when the run has gone on long enough without one.
        frozen: parts of the model that keep their weights.
        state: where the run stands.
        over_activation: counts false detections beside the training.
        distiller: the teacher and what is learned from it; None: the student learns alone.
    """

    model: nn.Module
    criterion: nn.Module
    optimizer: Optimizer
    loader: TrainLoader
    plan: Plan
    keeper: Keeper
    device: torch.device
    evaluator: ModelEvaluator | None = None
    ema: ModelEMA | None = None
    precision: Precision = field(default_factory=Precision)
    clip_max_norm: float = 0.0
    policy: Policy = field(default_factory=Policy)
    observers: Sequence[Observer] = ()
    seed: int = 0
    rank: int = 0
    accumulate: int = 1
    judge: Judge = field(default_factory=Judge)
    frozen: Frozen = field(default_factory=Frozen)
    state: TrainState = field(default_factory=TrainState)
    over_activation: OverActivationWatch | None = None
    distiller: Distiller | None = None

    def __post_init__(self) -> None:
        self.scaler: LossScaler = self.precision.scaler(self.device)
        self.safeguard = Safeguard(self.optimizer)
        self.watch = Watch(self, self.policy)
        self.guard = InterruptGuard()
        self.wishes = Agreement()
        self.waits = DataWait(self.device)
        self.begun = self.state.step  # before the first step of this process
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.groups = group_names(self.optimizer, unwrapped(self.model))

    # -- the run ------------------------------------------------------------------------------

    def fit(self) -> TrainState:
        """Trains until the plan or the judge's patience ends.

        Raises:
            TrainingDiverged: losses or gradients were not finite for too long.
            Interrupted: Ctrl-C or SIGTERM; `last.pth` holds the position inside the epoch.
        """
        self.begun = self.state.step
        with self.guard, fixed_order(self.device):
            try:
                ahead = self.state.epoch < self.plan.epochs and not self.state.ended_early
                if ahead and self.policy.goes_back and self.state.is_good_start:
                    self.keeper.save_start(self.snapshot())
                if self.over_activation:
                    self.over_activation.begin(self.state, self.guard)
                while self.state.epoch < self.plan.epochs and not self.state.ended_early:
                    stage = self.plan.at(self.state.epoch)
                    if stage.starts_at(self.state.epoch) and self.state.batch == 0:
                        self.enter(stage)
                    self.train_epoch(stage)
                    self.finish_epoch(stage, self.run_evaluation())
                if self.over_activation:
                    self.over_activation.finish()
            except (Stop, KeyboardInterrupt) as stop:
                save_interrupted(self, stop)
            finally:
                if self.over_activation:
                    self.over_activation.close()
                for observer in self.observers:
                    observer.close()
            self.wishes.settle()
        return self.state

    def enter(self, stage: Stage) -> None:
        """Begins a stage: from the best weights so far, if the plan says so."""
        if stage.first != self.plan.restart_epoch:
            return
        if not self.plan.restarts_after_decline:
            self.restart()
        elif self.state.has_declined(self.judge.chance):
            log.info("the last stage goes back to epoch %d, the best", self.state.best_epoch + 1)
            self.restart()

    def train_epoch(self, stage: Stage) -> None:
        """Trains the rest of the present epoch, from batch `state.batch` on."""
        state = self.state
        self.model.train()
        self.frozen.keep(unwrapped(self.model))
        self.criterion.train()
        if self.distiller:
            self.distiller.begin_epoch(state.epoch)
        if self.ema:
            self.ema.decay = stage.ema_decay
        self.loader.set_epoch(state.epoch, start_batch=state.batch)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        started = time.perf_counter()
        for loaded in self.waits.over(self._batches()):
            batch = loaded.to(self.device, non_blocking=True)
            losses, norm = fitting_step(self, batch)
            state.add(losses, len(batch) * world_size(), unless=self.safeguard.bad)
            now = time.perf_counter()
            seconds, started = now - started, now
            wait = self.waits.take()
            state.train_seconds += seconds
            state.wait_seconds += wait
            self._tell(step_report(self, losses, norm, batch, seconds, wait))
            state.batch += 1
            state.step += 1
            state.schedule_step += 1
            state.rate_step = None
            self.watch.look(losses, norm, loaded)
            stop, save = self.wishes(self.guard.requested, self.keeper.is_due())
            if state.batch < len(self.loader):
                if stop:
                    raise Stop
                if save:
                    self.watch.settle()
                    self.keeper.save_last(self.snapshot())
        self.watch.settle()
        state.train_seconds += time.perf_counter() - started

    def train_step(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """One optimizer step, dropped where its numbers are not finite.

        Returns:
            The weighted losses (detached), and the gradient norm before clipping.
        """
        self.safeguard.begin(unwrapped(self.model))
        if self.distiller:
            done = self.state.batch / max(len(self.loader), 1)
            self.distiller.begin_step(self.state.epoch + done, self.state.step)
        backward = Backward(
            self.model,
            self.criterion,
            self.autocast,
            self.scaler,
            partial(seed_step, self.seed, self.state.step, self.rank),
            self.distiller,
        )
        losses = backward(batch, self.parts, self.state.epoch)
        with phase("clip"):
            self.scaler.unscale_(self.optimizer)
            norm = clip_grad_norm_(self.parameters, self.clip_max_norm or math.inf)
            if self.distiller:
                norm = norm + finish_gradients(self.distiller, self.model, self.clip_max_norm)
        position = self.state.rate_step
        if position is None:
            position = self.state.schedule_step
        set_lr_factor(self.optimizer, self.plan.lr_factor(position) * self.state.lr_scale)
        self.safeguard.update(
            unwrapped(self.model),
            losses,
            norm,
            self.scaler,
            self.ema if is_main() else None,
        )
        return losses, norm

    def run_evaluation(self) -> dict[str, float]:
        """Metrics of the averaged weights; empty without validation data."""
        if self.evaluator is None:
            return {}
        started = time.perf_counter()
        copy_from_main(self.averaged.state_dict().values())
        try:
            metrics = dict(self.evaluator.run(self.averaged, self._tell_evaluation).values)
        except Exception as error:
            rescue(self, error)
            raise
        self.state.eval_seconds = time.perf_counter() - started
        return metrics

    def finish_epoch(self, stage: Stage, metrics: dict[str, float]) -> None:
        """Records the epoch, keeps checkpoints, and goes back where the plan says so."""
        state = self.state
        state.average()
        verdict = state.judge(self.judge.value(metrics))
        report = epoch_report(self, stage, metrics, verdict.is_best)
        goes_on_at = self.judge.next_epoch(state.epoch, state.best_epoch, self.plan)
        last_epoch = goes_on_at == self.plan.epochs
        for observer in self.observers:
            observer.epoch(report)
        state.next_epoch()
        if goes_on_at != state.epoch:
            self._lose_patience(goes_on_at)
        snapshot = self.snapshot(metrics)
        if verdict.is_best:
            ahead = any(s.restarts and s.end > state.epoch for s in self.plan.stages)
            self.keeper.save_best(snapshot, for_restart=ahead and not stage.restarts)
        if self.over_activation:
            self.over_activation.epoch(self.averaged, self.keeper.complete(snapshot))
        returns = stage.restarts and not self.plan.restarts_after_decline
        if returns and not verdict.is_progress and not last_epoch:
            self.restart()
            state.try_value = None  # the next epoch is compared with nothing before it
            snapshot = self.snapshot(metrics)
        self.keeper.save_last(snapshot)

    def _lose_patience(self, goes_on_at: int) -> None:
        """Ends the run, or leaves out the epochs before its last stage."""
        why = f"no better {self.judge.metric} since epoch {self.state.best_epoch + 1}"
        if goes_on_at == self.plan.epochs:
            self.state.ended_early = why
            log.info("ended early: %s", why)
            return
        log.info("%s: the last stage, planned for epoch %d, begins now", why, goes_on_at + 1)
        self.state.skip_to(goes_on_at, self.plan.batches_per_epoch)

    # -- going back and forth -----------------------------------------------------------------

    def restart(self) -> None:
        """Back to the full state of the best epoch of stage 1; the epoch goes on counting."""
        kept = shared(self.keeper.load_best_stage1)
        if kept is None:
            return
        self._restore(kept)
        self.state.latest = []
        position = int(kept.position.get("schedule_step", 0))
        if self.plan.rewinds:
            self.state.schedule_step = position
        elif self.plan.keeps_old_rate:
            self.state.rate_step = position

    def roll_back(self) -> str | None:
        """Back to the last good weights, with less risk from here on; the position stays.

        Returns:
            What the run goes on with; None: the state was not found, and nothing is changed.
        """
        epoch = self.state.epoch
        restarts = epoch == self.plan.restart_epoch and self.plan.at(epoch).starts_at(epoch)
        if self.plan.restarts_after_decline and self.state.latest:  # it went on from its own
            restarts = False
        load = self.keeper.load_good
        kept = shared(lambda: (restarts and self.keeper.load_best_stage1()) or load())
        if kept is None:
            return None
        safer = self.precision.safer(self.device)
        if safer is not None:
            self.state.amp = safer.amp
            self.use(safer)
        else:
            self.state.lr_scale /= 2
        self._restore(kept)
        return f"amp {safer.amp}" if safer else f"learning rates x {self.state.lr_scale:g}"

    def use(self, precision: Precision) -> None:
        """Changes the number format of the forward pass."""
        self.precision = precision
        self.scaler = precision.scaler(self.device)

    def snapshot(self, metrics: Mapping[str, float] | None = None) -> Checkpoint:
        """The whole state, for a checkpoint. Every process must call it."""
        self.state.average()
        return Checkpoint(
            model=unwrapped(self.model).state_dict(),
            ema=self.ema.state_dict() if self.ema else None,
            optimizer=self.optimizer.state_dict(),
            lr_warmup_scheduler={
                "last_step": self.state.schedule_step,
                "warmup_duration": self.plan.schedule.warmup_steps,
            },
            scaler=self.scaler.state_dict() if self.scaler.is_enabled() else None,
            last_epoch=self.state.epoch - 1,
            metrics=dict(metrics or {}),
            position=self.state.to_dict(),
            distiller=self.distiller.state_dict() if self.distiller else None,
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Takes over the whole state of a checkpoint."""
        self.state = TrainState.from_checkpoint(checkpoint, self.plan.batches_per_epoch)
        if self.state.amp is not None:
            self.use(Precision(self.state.amp))
        self._restore(checkpoint)

    def _restore(self, checkpoint: Checkpoint) -> None:
        assert checkpoint.model is not None
        assert checkpoint.optimizer is not None
        unwrapped(self.model).load_state_dict(checkpoint.model)
        if self.ema:
            self.ema.load_state_dict(checkpoint.ema or {"module": checkpoint.model})
        load_optimizer_state(self.optimizer, checkpoint.optimizer)
        if checkpoint.scaler and self.scaler.is_enabled():
            self.scaler.load_state_dict(checkpoint.scaler)
        if self.distiller and checkpoint.distiller:
            self.distiller.load_state_dict(checkpoint.distiller)

    # -- small things -------------------------------------------------------------------------

    @property
    def parts(self) -> int:
        """In how many parts a batch goes through the model: as configured, or more of them."""
        return self.accumulate * self.state.splits

    @property
    def averaged(self) -> nn.Module:
        """The averaged model, or the model itself where there is none: what is evaluated."""
        return self.ema.module if self.ema else unwrapped(self.model)

    @property
    def lr(self) -> float:
        """The highest rate of the model's groups: the main one, not the backbone's."""
        groups = self.optimizer.param_groups
        return max(float(group["lr"]) for group in groups if group.get("part") != ADAPTERS)

    @property
    def lrs(self) -> dict[str, float]:
        """The rate of each parameter group, where there are several."""
        groups = self.groups if len(self.groups) > 1 else {}
        return {n: float(self.optimizer.param_groups[i]["lr"]) for n, i in groups.items()}

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of the forward pass."""
        return self.precision.autocast(self.device)

    def _batches(self) -> Any:
        """The loader's batches; workers that Ctrl-C killed end the epoch, not the program."""
        if self.state.batch >= len(self.loader):
            return
        try:
            yield from self.loader
        except Exception as error:
            if self.guard.requested:
                raise Stop from None
            rescue(self, error)
            raise

    def _tell_evaluation(self, done: int, batches: int) -> None:
        if self.guard.requested:
            raise Stop
        self._tell(StepReport("val", self.state.epoch, self.plan.epochs, done - 1, batches))

    def _tell(self, report: StepReport) -> None:
        for observer in self.observers:
            observer.step(report)
