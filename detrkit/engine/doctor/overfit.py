"""Can the model learn one batch by heart? The shortest proof that everything is wired right.

A few images of the data set, always the same, without augmentation, at a constant rate: a model
that gets labels, boxes and gradients right knows them after some hundred steps. It is then asked
as in validation, so that targets, loss, postprocessing and classes are all part of the proof.
Where labels and boxes do not belong to the images, or nothing learns, it fails.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from detrkit.config import Config
from detrkit.data.dataset import DetectionDataset
from detrkit.data.index import DatasetIndex
from detrkit.data.loader import build_loader
from detrkit.engine.data_sets import transforms_of
from detrkit.engine.doctor.report import Check, ok, problem
from detrkit.engine.randomness import fixed_order
from detrkit.engine.schedules import ConstantCurve, LRSchedule
from detrkit.engine.session import Session, evaluator_on, session_of
from detrkit.engine.step_probe import StepProbe, training_boxes
from detrkit.errors import DataError, TrainingDiverged
from detrkit.ops.boxes import box_iou
from detrkit.structures import Batch, Detections
from detrkit.words import count, duration

#: Images of the batch.
IMAGES = 4

#: Steps, at most; the test ends as soon as it is passed.
STEPS = 300

#: Longer side of the images, where the run's is larger: the test is about wiring, not accuracy.
SIDE = 320

#: Images with so many boxes at most are preferred: one batch should not take all day.
FEW_BOXES = 12

#: Shorter side of a box, in pixels of the input, that is found without long training.
VISIBLE = 16

#: Learning rate at least; the recipes' own are made for long runs.
RATE = 1e-3

#: What counts as learned: AP50 on the batch, the share of its boxes that are found with their
#: class, and the last loss against the first.
PASS_AP50 = 0.75
PASS_FOUND = 0.75
PASS_LOSS = 0.7

#: A class is told from the others when its score is so many times the next one's.
MARGIN = 2.0

#: How often it is asked.
EXAMS = 10

#: Changes a batch before a step; only for tests of the test.
Disturb = Callable[[Batch, int], Batch]


@dataclass(frozen=True)
class Overfit:
    """How it went.

    Attributes:
        steps: that were made.
        first_loss, half_loss, last_loss: sum of all terms, means over a few steps: the first, those
            in the middle, the last.
        ap50: on the batch.
        found, boxes: boxes of the batch that a detection covers (IoU 0.5) whose class is told from
            the others; and how many boxes there are.
        images: of the batch.
        size: (h, w) they were shown at.
        seconds: it took.
        diverged: why it broke off; empty if it did not.
    """

    steps: int
    first_loss: float
    half_loss: float
    last_loss: float
    ap50: float
    found: int
    boxes: int
    images: int
    size: tuple[int, int]
    seconds: float
    diverged: str = ""

    @property
    def passed(self) -> bool:
        """Whether the batch was learned."""
        fell = self.last_loss <= PASS_LOSS * self.first_loss
        found = self.found >= PASS_FOUND * self.boxes
        return not self.diverged and fell and found and self.ap50 >= PASS_AP50

    @property
    def falls(self) -> bool:
        """Whether more steps would help: the loss falls in the second half as well."""
        return not self.diverged and self.last_loss < 0.9 * self.half_loss


def overfit(
    cfg: Config,
    train: DetectionDataset,
    device: torch.device,
    *,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    disturb: Disturb | None = None,
) -> Overfit:
    """Trains on one batch and asks for it. Writes nothing.

    Args:
        cfg: the run's configuration; `tuning` names weights to start from.
        train: training images.
        device: to train on.
        steps: at most.
        seed: of the weights and of the choice of images.
        progress: called with (steps done, steps).
        disturb: changes the batch of a step.

    Raises:
        DataError: no image has boxes.
    """
    session = _small_session(cfg, train, device, seed)
    chosen = learnable_images(train.index, session.image_spec.size, IMAGES, seed)
    dataset = DetectionDataset(
        train.index.subset(chosen),
        transforms_of(session.config, "val_dataloader"),
        seed=seed,
        in_channels=session.image_spec.in_channels,
    )
    (batch,) = build_loader(dataset, batch_size=len(chosen), shuffle=False, seed=seed)
    probe = StepProbe(session, fresh=bool(session.config.run.tuning))
    _constant_rate(probe)
    exam = _Exam(session, dataset.index, batch)
    started = time.perf_counter()
    losses: list[float] = []
    result, reason = (0.0, 0), ""
    done = 0

    def state() -> Overfit:
        return Overfit(
            steps=done,
            first_loss=_mean(losses[:3]),
            half_loss=_mean(losses[len(losses) // 2 : len(losses) // 2 + 3]),
            last_loss=_mean(losses[-3:]),
            ap50=result[0],
            found=result[1],
            boxes=sum(len(target) for target in batch.targets),
            images=len(batch),
            size=session.image_spec.size,
            seconds=time.perf_counter() - started,
            diverged=reason,
        )

    with fixed_order(device):
        for done in range(1, steps + 1):
            terms = probe.step(disturb(batch, done) if disturb else batch)
            losses.append(float(torch.stack(list(terms.values())).sum()))
            if not math.isfinite(losses[-1]):
                reason = f"the loss is {losses[-1]} after {count(done, 'step')}"
                break
            if progress is not None:
                progress(done, steps)
            if done % max(steps // EXAMS, 1) == 0 or done == steps:
                result = exam.take(probe.trainer.model)
                if state().passed:
                    break
    return state()


def overfit_check(result: Overfit) -> Check:
    """The verdict, with numbers."""
    r = result
    values = {
        "steps": r.steps, "first_loss": r.first_loss, "last_loss": r.last_loss, "ap50": r.ap50,
        "found": r.found, "boxes": r.boxes, "images": r.images, "size": list(r.size),
        "seconds": r.seconds, "passed": r.passed,
    }  # fmt: skip
    text = (
        f"{count(r.images, 'image')} at {r.size[0]}x{r.size[1]}, {count(r.steps, 'step')} in "
        f"{duration(r.seconds)}: loss {r.first_loss:.3g} -> {r.last_loss:.3g}, AP50 {r.ap50:.2f}, "
        f"{r.found} of {count(r.boxes, 'box')} found with their class"
    )
    if r.passed:
        return ok("overfit", f"learned by heart: {text}", values=values)
    if r.diverged:
        return problem(
            "overfit",
            f"diverged: {r.diverged}; {text}",
            "a learning rate or a weight file that is not right?",
            exit_code=TrainingDiverged.exit_code,
            values=values,
        )
    later = f"--steps {4 * r.steps} gives it more time: the loss still falls" if r.falls else ""
    wiring = "do boxes and labels belong to the images? is part of the model frozen?"
    return problem(
        "overfit",
        f"not learned: {text}",
        "; ".join(filter(None, (later, wiring))),
        exit_code=DataError.exit_code,
        values=values,
    )


def learnable_images(
    index: DatasetIndex, size: tuple[int, int], most: int, seed: int = 0
) -> list[int]:
    """Images to learn by heart: with boxes, few of them, and not too small.

    Args:
        index: the data set.
        size: (h, w) they will be shown at.
        most: how many.
        seed: of the draw among those that suit.

    Raises:
        DataError: no image has boxes.
    """
    boxes = training_boxes(index)
    with_boxes = np.flatnonzero(boxes > 0)
    if not len(with_boxes):
        raise DataError(
            f"{index.source}: no image has boxes, there is nothing to learn",
            hint="are the label files where they should be?",
        )
    smallest = _smallest_sides(index, size)
    small, many = smallest < VISIBLE, boxes > FEW_BOXES
    drawn = np.random.default_rng([seed, 0x0F17]).permutation(with_boxes)
    # those that suit first, in random order; then the least unsuitable
    order = sorted(
        drawn.tolist(),
        key=lambda i: (
            bool(small[i]) + bool(many[i]),
            -smallest[i] if small[i] else 0,
            boxes[i] if many[i] else 0,
        ),
    )
    return sorted(order[:most])


def _smallest_sides(index: DatasetIndex, size: tuple[int, int]) -> np.ndarray:
    """(N,) shorter side in input pixels of each image's smallest box; infinite without boxes."""
    owner = np.repeat(np.arange(len(index)), np.diff(index.offsets))
    scale = np.array(size, np.float64) / np.maximum(index.sizes, 1)  # (N, 2) h, w
    extent = index.boxes_xyxy[:, 2:] - index.boxes_xyxy[:, :2]  # (M, 2) w, h
    sides = (extent * scale[owner][:, ::-1]).min(1)
    result = np.full(len(index), np.inf)
    np.minimum.at(result, owner[~index.iscrowd], sides[~index.iscrowd])
    return result


def _small_session(
    cfg: Config, train: DetectionDataset, device: torch.device, seed: int
) -> Session:
    """The run's session at a smaller input, without validation data."""
    height, width = cfg.run.eval_spatial_size or (SIDE, SIDE)
    factor = min(SIDE / max(height, width), 1.0)
    size = [max(round(side * factor / 32), 1) * 32 for side in (height, width)]
    cfg = cfg.with_values({"image_size": size, "train_dataloader.num_workers": 0}, origin="doctor")
    # a data set of its own: the session changes its transforms
    own = DetectionDataset(train.index, seed=seed, in_channels=train.in_channels)
    return session_of(cfg, own, None, seed, device)


def _constant_rate(probe: StepProbe) -> None:
    """The recipe's rates, raised together to `RATE` at least, without schedule or averaging."""
    trainer = probe.trainer
    highest = max(float(group["initial_lr"]) for group in trainer.optimizer.param_groups)
    for group in trainer.optimizer.param_groups:
        group["initial_lr"] *= max(RATE / highest, 1.0) if highest else 1.0
    trainer.plan = replace(trainer.plan, schedule=LRSchedule(ConstantCurve()))
    trainer.ema = None
    trainer.accumulate = 1


class _Exam:
    """Asks a model for the batch, as validation would."""

    def __init__(self, session: Session, index: DatasetIndex, batch: Batch) -> None:
        self.batch = batch
        self.device = session.device
        self.evaluator = evaluator_on(session, [batch], index, keep=True)
        self.index = index

    def take(self, model: nn.Module) -> tuple[float, int]:
        """AP50, and how many boxes are found."""
        with _statistics_of(model, self.batch.to(self.device)):
            metrics = self.evaluator.run(model)
        found = sum(
            _found(detections, self.index, number)
            for number, detections in enumerate(self.evaluator.detections)
        )
        return max(metrics.ap50, 0.0), found


def _found(detections: Detections, index: DatasetIndex, number: int) -> int:
    """Boxes of an image that are found, and whose class is told from the others.

    Where labels are not learned, all classes score alike at the right places.
    """
    rows = index.boxes_of(number)
    kept = ~index.iscrowd[rows]
    truth, labels = index.boxes_xyxy[rows][kept], index.labels[rows][kept]
    if not len(truth) or not len(detections):
        return 0
    iou, _ = box_iou(torch.from_numpy(truth), torch.from_numpy(detections.boxes_xyxy))
    scores = np.where(iou.numpy() >= 0.5, detections.scores, 0.0)  # (boxes, detections)
    same = labels[:, None] == detections.labels[None]
    right, wrong = (np.where(which, scores, 0.0).max(1) for which in (same, ~same))
    return int(((right > 0) & (right >= MARGIN * wrong)).sum())


@contextmanager
def _statistics_of(model: nn.Module, batch: Batch) -> Iterator[None]:
    """Batch norms know this batch: a few hundred steps are too short for their averages."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    kept = [(_copy(n.running_mean), _copy(n.running_var), _copy(n.num_batches_tracked))
            for n in norms]  # fmt: skip
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
    with torch.no_grad():
        model(batch.images, batch.targets)
    try:
        yield
    finally:
        for norm, momentum, (mean, var, seen) in zip(norms, momenta, kept, strict=True):
            norm.momentum = momentum
            for buffer, value in (
                (norm.running_mean, mean),
                (norm.running_var, var),
                (norm.num_batches_tracked, seen),
            ):
                if buffer is not None and value is not None:
                    buffer.copy_(value)


def _copy(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.clone()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
