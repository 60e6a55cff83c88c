"""Reads the teacher of a distillation, and puts it to work when the window opens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from detrkit.config import build_component, load_config
from detrkit.distillation.layout import MapPair, pair_maps
from detrkit.distillation.settings import Distillation
from detrkit.distillation.taps import stages_of
from detrkit.distillation.teacher import (
    BackboneTeacher,
    BareBackbone,
    DetectorTeacher,
    Respec,
    Teacher,
)
from detrkit.distillation.terms import LogitLosses
from detrkit.engine.amp import Precision
from detrkit.engine.class_matching import match_classes
from detrkit.engine.distilling.losses import logit_losses
from detrkit.engine.distilling.onnx_teacher import OnnxTeacher
from detrkit.engine.parts import load_pretrained_backbone
from detrkit.engine.session import Session
from detrkit.engine.weights import open_detector
from detrkit.errors import ConfigError, WeightsError
from detrkit.models.detector import Detector
from detrkit.structures import ClassMap, ImageSpec

log = logging.getLogger("detrkit")

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: What one class list has of another is named up to so many.
_NAMED = 8


@dataclass
class Source:
    """A teacher as it was read, before it goes to the device.

    Attributes:
        model: in evaluation mode; None for an ONNX file.
        image_spec: of its images.
        classes: (student's indices, teacher's indices) of the classes that both have.
        onnx: the runtime of an ONNX file.
    """

    model: nn.Module | None
    image_spec: ImageSpec
    classes: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    onnx: OnnxTeacher | None = None


class Opener:
    """Reads the teacher once, and puts it to work when the window opens.

    Args:
        settings: of the distillation.
        session: of the student.

    Attributes:
        stages: whose maps it answers with.
    """

    def __init__(self, settings: Distillation, session: Session) -> None:
        self.settings = settings
        self.session = session
        self.stages: tuple[str, ...] = ()
        self._source: Source | None = None

    def source(self) -> Source:
        """The teacher as it was read."""
        if self._source is None:
            self._source = _read(self.settings, self.session)
        return self._source

    def __call__(self) -> tuple[Teacher, LogitLosses | None]:
        source, settings, device = self.source(), self.settings, self.session.device
        self._source = None  # what is put to work may be let go of
        teacher = self.teacher_of(source)
        if not settings.learns_logits:
            return teacher, None
        columns = torch.tensor(source.classes[0], dtype=torch.int64, device=device)
        return teacher, logit_losses(settings, self.session.config, columns)

    def teacher_of(self, source: Source) -> Teacher:
        """The teacher on the device."""
        if source.onnx is not None:
            return source.onnx
        assert source.model is not None
        session, size = self.session, self._size(source)
        respec = Respec(session.image_spec, source.image_spec, size)
        model = source.model.to(session.device)
        if isinstance(model, BareBackbone):
            return BackboneTeacher(model.backbone, respec, self.stages, self._autocast())
        columns = torch.tensor(source.classes[1], dtype=torch.int64, device=session.device)
        return DetectorTeacher(
            model, respec, columns, self.stages, self.settings.probes > 0, self._autocast()
        )

    def _size(self, source: Source) -> tuple[int, int] | None:
        return source.image_spec.size if self.settings.teacher_size == "own" else None

    def _autocast(self) -> Callable[[], AbstractContextManager[Any]]:
        """bf16 where the run trains in mixed precision: it has the range of float32."""
        precision, device = self.session.precision, self.session.device
        if precision.amp == "fp16" and torch.cuda.is_bf16_supported(False):
            precision = Precision("bf16")
        return partial(precision.autocast, device)

    def layout(self, student: nn.Module) -> list[list[MapPair]]:
        """The pairs of maps of each feature loss."""
        source, spec = self.source(), self.session.image_spec
        features = self.settings.chosen_features
        if not features:
            return []
        assert source.model is not None
        mine = [str(f.get("stage", "encoder")) for f in features]
        theirs = [
            str(f.get("teacher_stage", stage)) for f, stage in zip(features, mine, strict=True)
        ]
        size = self._size(source) or spec.size
        channels = spec.in_channels
        own = stages_of(student, mine, spec.size, channels)
        try:
            other = stages_of(source.model, theirs, size, channels)
        except ConfigError as error:
            raise ConfigError(f"{error.message} (the teacher)", hint=error.hint) from error
        return [
            pair_maps(own[a], other[b], spec.size, size) for a, b in zip(mine, theirs, strict=True)
        ]


def _read(settings: Distillation, session: Session) -> Source:
    if settings.foundation is not None:
        return _read_foundation(settings, session)
    assert settings.weights is not None
    if settings.is_onnx:
        onnx = OnnxTeacher(settings.weights, session.image_spec, session.device)
        onnx.classes = _shared(session.class_map, onnx.class_map, settings, known=False)
        return Source(None, onnx.image_spec, onnx.classes, onnx)
    config = load_config(settings.teacher) if settings.teacher else None
    try:
        loaded = open_detector(settings.weights, config, averaged=settings.teacher_ema)
    except WeightsError as error:
        raise WeightsError(f"teacher: {error.message}", hint=error.hint) from error
    known = loaded.checkpoint.class_map is not None
    classes = _shared(session.class_map, loaded.class_map, settings, known)
    model = loaded.model
    if isinstance(model, Detector):
        model = model.deploy()
    return Source(model.eval(), loaded.image_spec, classes)


def _read_foundation(settings: Distillation, session: Session) -> Source:
    assert settings.foundation is not None
    backbone = build_component(session.config, settings.foundation)
    model = BareBackbone(backbone).eval()
    if not getattr(backbone, "pretrained", False):
        log.warning("the foundation model has random weights; set its `pretrained`")
    try:
        load_pretrained_backbone(model)
    except WeightsError as error:
        raise WeightsError(
            f"foundation model: {error.message}",
            hint="give a file of its weights: -u distillation.foundation.pretrained=FILE",
        ) from error
    given, spec = settings.foundation_images, session.image_spec
    mean, std = _IMAGENET if spec.in_channels == 3 else (spec.mean, spec.std)
    size = tuple(given.get("size", spec.size))
    return Source(
        model,
        replace(
            spec,
            size=(int(size[0]), int(size[1])),
            channels="rgb",
            scale=1 / 255,
            mean=tuple(given.get("mean", mean)),
            std=tuple(given.get("std", std)),
        ),
    )


def _shared(
    mine: ClassMap, theirs: ClassMap, settings: Distillation, known: bool
) -> tuple[list[int], list[int]]:
    """Indices of the classes that both have, by name.

    Args:
        mine, theirs: of the student and of the teacher.
        settings: whether detections are compared at all.
        known: whether the teacher's file names its classes; else equally many are taken in their
            order.

    Raises:
        ConfigError: there are none.
    """
    pairs = match_classes(mine, theirs)
    if not pairs and not known and len(mine) == len(theirs):
        log.warning("the teacher's weights name no classes: they are taken in the student's order")
        pairs = {index: index for index in range(len(mine))}
    if not pairs and settings.learns_logits:
        raise ConfigError(
            f"teacher and student have no class in common: {_names(theirs.names)} and "
            f"{_names(mine.names)}",
            hint="--mode feature compares maps only",
        )
    missing = [name for index, name in enumerate(mine.names) if index not in pairs]
    if missing and settings.learns_logits:
        log.warning("the teacher does not know %s: learned without it", _names(missing))
    return list(pairs), list(pairs.values())


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
