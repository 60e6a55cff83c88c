"""Distillation of one training: who is watched, what is compared, and when.

The student stays the model that it is. What distillation adds (adapters, the layers of some
losses) lies in `terms`, which is saved beside the model and never inside of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.distillation.cache import AnswerCache
from detrkit.distillation.names import PREFIX
from detrkit.distillation.probes import probe_boxes
from detrkit.distillation.schedule import Window
from detrkit.distillation.taps import Taps, split
from detrkit.distillation.teacher import (
    Answers,
    DetectorTeacher,
    Teacher,
    projections,
    queried_decoder,
)
from detrkit.distillation.terms import FeatureTerm, LogitLosses
from detrkit.ops.precision import upcast
from detrkit.phases import phase
from detrkit.structures import Batch

log = logging.getLogger("detrkit")


@dataclass
class Distiller:
    """Adds the distillation losses of a step.

    Attributes:
        open_teacher: loads the teacher, and the losses of detections if these are compared; called
            when the window opens.
        window: when.
        terms: of feature maps; their parameters are trained beside the student's.
        probes: shared queries per image.
        weight: factor on everything.
        ratio_every: steps between measurements of the gradients' ratio; 0: none.
        cache: of the teacher's answers to pictures that come again; None: it is always asked.
        teacher, logits: while the window is open.
        factor: of the schedule, in the step in progress.
        step: of the run.
        ratios: sum and number of the epoch's measurements.
    """

    open_teacher: Callable[[], tuple[Teacher, LogitLosses | None]]
    window: Window
    terms: nn.ModuleList
    probes: int = 0
    weight: float = 1.0
    ratio_every: int = 50
    cache: AnswerCache | None = None
    teacher: Teacher | None = None
    logits: LogitLosses | None = None
    factor: float = 0.0
    step: int = 0
    ratios: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def __post_init__(self) -> None:
        self._stages = [pair.student for term in self.terms for pair in _term(term).pairs]
        self._taps = Taps(())

    def parameters(self) -> list[nn.Parameter]:
        """What is trained beside the student."""
        return list(self.terms.parameters())

    def begin_epoch(self, epoch: int) -> None:
        """Loads the teacher for an epoch with distillation; frees it where there is none."""
        if self.window.is_open(epoch):
            if self.teacher is None:
                self.teacher, self.logits = self.open_teacher()
            if self.cache is not None:
                self.cache.begin_epoch()
            self.terms.train()
        elif self.teacher is not None:
            self.teacher = self.logits = self.cache = None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.info("distillation is over: the teacher is freed")

    def begin_step(self, position: float, step: int) -> None:
        """Before the forward pass of a step.

        Args:
            position: in the run, in epochs.
            step: of the run.
        """
        self.factor = self.window.factor(position) if self.teacher is not None else 0.0
        self.step = step

    @property
    def is_active(self) -> bool:
        """Whether the step has distillation."""
        return self.teacher is not None and self.factor > 0

    def watching(self, student: nn.Module) -> AbstractContextManager[None]:
        """Around the student's forward pass."""
        if not self.is_active:
            return nullcontext()
        names = [split(stage)[0] for stage in self._stages]
        if self.probes:
            names += projections(queried_decoder(student, "student"))
        if self._measures(0) and hasattr(student, "backbone"):
            names.append("backbone")
        self._taps = Taps(names)
        return self._taps.watching(student)

    def add(
        self,
        student: nn.Module,
        batch: Batch,
        outputs: Mapping[str, Any],
        losses: dict[str, Tensor],
        share: float = 1.0,
        part: int = 0,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> dict[str, Tensor]:
        """The losses of detection together with those of distillation.

        Args:
            student: the detector that was watched.
            batch: what it saw.
            outputs: what it answered, in float32.
            losses: of detection.
            share: of the whole batch, where this is a part of it.
            part: which one.
            autocast: the context of the student's forward pass.
        """
        if not self.is_active:
            return losses
        with phase("distill"):
            own = self._losses(student, batch, outputs, autocast)
            own = {f"{PREFIX}{name}": value * share for name, value in own.items()}
            if self._measures(part):
                self._measure(losses, own)
        self._taps.seen = {}  # the maps hold the graph
        return {**losses, **own}

    def _losses(
        self,
        student: nn.Module,
        batch: Batch,
        outputs: Mapping[str, Any],
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> dict[str, Tensor]:
        assert self.teacher is not None
        factor = self.weight * self.factor
        teacher = self.teacher
        if self.cache is not None:
            teacher = partial(self.cache.ask, self.teacher)
        answers = teacher(batch.images)
        boxes = [target.boxes_cxcywh for target in batch.targets]
        found = {}
        for module in self.terms:
            term = _term(module)
            found[term.name] = term(self._taps.map, answers.maps, boxes)
        if self.logits is not None:
            found |= self.logits.paired(outputs, answers)
        if self.probes and self.logits is not None:
            found |= self._at_probes(student, answers, autocast)
        return {name: value * factor for name, value in found.items()}

    def _at_probes(
        self,
        student: nn.Module,
        answers: Answers,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> dict[str, Tensor]:
        assert isinstance(self.teacher, DetectorTeacher)  # `Distillation` refuses others
        assert self.logits is not None
        assert answers.logits is not None
        assert answers.boxes is not None
        general = self.probes // 2
        boxes = probe_boxes(answers.logits, answers.boxes, general, self.probes - general)
        theirs = self.teacher.at(boxes)
        decoder = queried_decoder(student, "student")
        maps = [self._taps.seen[name] for name in projections(decoder)]
        with autocast():
            mine = decoder.decode_at(maps, boxes)
        return self.logits.at_probes(upcast(mine), theirs)

    def _measures(self, part: int) -> bool:
        return bool(self.ratio_every) and part == 0 and self.step % self.ratio_every == 0

    def _measure(self, losses: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
        """Norms of both gradients where they meet: at the maps of the backbone."""
        maps = [x for x in self._taps.seen.get("backbone", ()) if x.requires_grad]
        if not maps:  # a frozen one
            return
        norms = []
        for terms in (own, losses):
            total = torch.stack(list(terms.values())).sum()
            gradients = torch.autograd.grad(total, maps, retain_graph=True, allow_unused=True)
            norms.append(torch.stack([g.float().norm() for g in gradients if g is not None]).norm())
        ratio = float(norms[0] / norms[1].clamp(min=1e-12))
        if ratio == ratio and ratio != float("inf"):
            self.ratios = [self.ratios[0] + ratio, self.ratios[1] + 1]

    def take_ratio(self) -> float | None:
        """Distillation's gradient in units of detection's: mean since the last call."""
        total, count = self.ratios
        self.ratios = [0.0, 0.0]
        return total / count if count else None

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, beside the student."""
        return {
            "terms": self.terms.state_dict(),
            "layout": [[pair.to_dict() for pair in _term(t).pairs] for t in self.terms],
            "ratios": list(self.ratios),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; the terms must be laid out alike."""
        self.terms.load_state_dict(state["terms"])
        self.ratios = list(state["ratios"])


def _term(module: nn.Module) -> FeatureTerm:
    assert isinstance(module, FeatureTerm)
    return module
