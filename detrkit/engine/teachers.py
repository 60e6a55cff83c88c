"""Opens the teacher of a distillation and lays out what the student learns from it.

Everything that a user can get wrong is found here, before a run has a folder. Resuming lays the
adapters out as the checkpoint says, so that a run whose distillation is over needs no teacher.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from detrkit.config import Config, build, build_component, load_config
from detrkit.data.dataset import DetectionDataset
from detrkit.distillation.distiller import Distiller
from detrkit.distillation.layout import MapPair, pair_maps
from detrkit.distillation.losses.base import FeatureLoss
from detrkit.distillation.pairing import Pairing
from detrkit.distillation.settings import Distillation
from detrkit.distillation.taps import stages_of
from detrkit.distillation.teacher import (
    AsDetector,
    BackboneTeacher,
    BareBackbone,
    DetectorTeacher,
    Respec,
    Teacher,
)
from detrkit.distillation.terms import FeatureTerm, LogitLosses
from detrkit.engine.amp import Precision
from detrkit.engine.class_matching import match_classes
from detrkit.engine.data_sets import loader_of
from detrkit.engine.distributed.group import copy_from_main
from detrkit.engine.evaluator import Evaluator
from detrkit.engine.onnx_teacher import OnnxTeacher
from detrkit.engine.parts import build_postprocessor, load_pretrained_backbone
from detrkit.engine.randomness import mix
from detrkit.engine.session import Session
from detrkit.engine.weights import open_detector
from detrkit.errors import ConfigError, WeightsError
from detrkit.models.decoders.two_stage import TwoStageDecoder
from detrkit.models.detector import Detector
from detrkit.structures import ClassMap, ImageSpec
from detrkit.words import count

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


def settings_of(cfg: Config) -> Distillation | None:
    """The `distillation` section; None without one."""
    if cfg.peek("distillation") is None:
        return None
    settings = build(cfg, "distillation")
    if not isinstance(settings, Distillation):
        raise ConfigError("distillation: `type` must be Distillation")
    return settings


def open_distiller(
    session: Session,
    student: nn.Module,
    saved: Mapping[str, Any] | None = None,
    epoch: int = 0,
    *,
    quiet: bool = False,
) -> Distiller | None:
    """The distillation that a configuration asks for; None: it asks for none.

    Args:
        session: with its data.
        student: on its device.
        saved: `distiller` of the checkpoint that is resumed.
        epoch: in which the run goes on.
        quiet: say nothing, and do not measure the teacher.

    Raises:
        ConfigError, WeightsError: teacher, stages, losses or classes make no sense.
    """
    settings = settings_of(session.config)
    if settings is None:
        return None
    window = settings.window(session.plan.epochs)
    opener = Opener(settings, session)
    _check_losses(settings, session.config)
    if settings.probes and not _takes_queries(student):
        raise ConfigError("distillation: the student's decoder takes no shared queries (probes)")
    layout = _layout_of(saved)
    if layout is None:
        layout = opener.layout(student)
    elif not window.is_over(epoch):
        opener.source()
    opener.stages = tuple(dict.fromkeys(pair.teacher for pairs in layout for pair in pairs))
    with torch.random.fork_rng([]):
        torch.manual_seed(mix(session.seed, 0x7EAC4E5))
        terms = _terms(settings, session.config, layout).to(session.device)
    copy_from_main(terms.state_dict().values())
    distiller = Distiller(
        open_teacher=opener,
        window=window,
        terms=terms,
        probes=settings.probes,
        weight=settings.weight,
        ratio_every=settings.ratio_every,
    )
    if saved is None and not quiet:
        _announce(settings, opener, layout, distiller)
        preflight(session, settings, opener, student)
    return distiller


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
        teacher = self._teacher(source)
        if not settings.learns_logits:
            return teacher, None
        columns = torch.tensor(source.classes[0], dtype=torch.int64, device=device)
        return teacher, _logit_losses(settings, self.session.config, columns)

    def _teacher(self, source: Source) -> Teacher:
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
    load_pretrained_backbone(model)
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


def _takes_queries(model: nn.Module) -> bool:
    return isinstance(getattr(model, "decoder", None), TwoStageDecoder)


# -- losses -----------------------------------------------------------------------------------


def _loss(cfg: Config, given: Any, kind: type[Any], where: str) -> Any:
    """A loss by name or from a mapping with `type`."""
    loss = build_component(cfg, {"type": given} if isinstance(given, str) else given)
    if not isinstance(loss, kind):
        raise ConfigError(
            f"distillation.{where}: `{type(loss).__name__}` is no {kind.__name__}",
            hint="`detrkit modules distillation` lists the losses",
        )
    return loss


def _check_losses(settings: Distillation, cfg: Config) -> None:
    """Builds every loss once, so that a mistake is found before the teacher is read."""
    for number, feature in enumerate(settings.chosen_features):
        _loss(cfg, feature["loss"], FeatureLoss, f"features[{number}].loss")
    if settings.learns_logits:
        _logit_losses(settings, cfg, torch.zeros(0, dtype=torch.int64))


def _terms(
    settings: Distillation, cfg: Config, layout: Sequence[Sequence[MapPair]]
) -> nn.ModuleList:
    terms: list[FeatureTerm] = []
    for feature, pairs in zip(settings.chosen_features, layout, strict=True):
        new_loss = partial(_loss, cfg, feature["loss"], FeatureLoss, "features")
        sample = new_loss()
        stage = pairs[0].student if len(pairs) == 1 else str(feature.get("stage", "encoder"))
        name = f"{type(sample).__name__.lower()}_{stage.replace('.', '_')}"
        number = 1 + sum(t.name == name or t.name.startswith(f"{name}-") for t in terms)
        weight = float(feature.get("weight", sample.default_weight))
        name = name if number == 1 else f"{name}-{number}"
        terms.append(FeatureTerm(name, weight, pairs, new_loss))
    return nn.ModuleList(terms)


def _logit_losses(settings: Distillation, cfg: Config, columns: torch.Tensor) -> LogitLosses:
    given = dict(settings.logit)
    classes = _loss(cfg, given.pop("classes", "SigmoidKL"), nn.Module, "logit.classes")
    edges = _loss(cfg, given.pop("localisation", "LocalisationKL"), nn.Module, "logit.localisation")
    queries = given.pop("queries", 100)
    if not isinstance(queries, int) or queries < 1:
        raise ConfigError(f"distillation.logit.queries: must be at least 1, got {queries!r}")
    if given.get("layers", "last") not in ("last", "all"):
        raise ConfigError(f"distillation.logit.layers: last or all, got {given['layers']!r}")
    weights = {name: float(v) for name, v in given.items() if name.startswith("weight_")}
    if any(value < 0 for value in weights.values()):
        raise ConfigError("distillation.logit: weights must not be negative")
    return LogitLosses(
        columns,
        classes,
        edges,
        pairing=Pairing(queries),
        layers=given.get("layers", "last"),
        **weights,
    )


def _layout_of(saved: Mapping[str, Any] | None) -> list[list[MapPair]] | None:
    if saved is None:
        return None
    return [[MapPair.from_dict(pair) for pair in pairs] for pairs in saved["layout"]]


def _announce(
    settings: Distillation,
    opener: Opener,
    layout: Sequence[Sequence[MapPair]],
    distiller: Distiller,
) -> None:
    source = opener.source()
    who = settings.weights or str((settings.foundation or {}).get("name", "a backbone"))
    size = ""
    if source.model is not None:
        millions = sum(p.numel() for p in source.model.parameters()) / 1e6
        size = f" ({millions:.2f} M parameters)"
    window = distiller.window
    log.info(
        "teacher: %s%s; mode %s, epochs %d-%d",
        who, size, settings.mode, window.start, window.stop - 1,
    )  # fmt: skip
    for term, pairs in zip(distiller.terms, layout, strict=True):
        shown = ", ".join(f"{p.student} -> {p.teacher}" for p in pairs)
        log.info("distill_%s, weight %g: %s", term.name, term.weight, shown)
    if adapters := sum(p.numel() for p in distiller.parameters()):
        log.info("adapters: %.2f M parameters beside the student", adapters / 1e6)


# -- preflight --------------------------------------------------------------------------------


def preflight(session: Session, settings: Distillation, opener: Opener, model: nn.Module) -> None:
    """Measures the teacher as the student will meet it, and warns where it has little to teach.

    A student that starts from tuning weights is measured as well; one from random weights knows
    nothing.
    """
    if session.val is None or not settings.preflight or not settings.learns_logits:
        return
    evaluator = _part_of_validation(session, settings.preflight)
    source = opener.source()
    columns = torch.tensor(source.classes[0], dtype=torch.int64, device=session.device)
    teacher = AsDetector(opener._teacher(source), columns, len(session.class_map))
    theirs = evaluator.run(teacher).ap
    mine = None
    if session.config.run.tuning:
        copy_from_main(model.state_dict().values())  # it alone has loaded them
        mine = evaluator.run(model).ap
    images = count(len(evaluator.index.sizes), "validation image")
    log.info(
        "teacher: AP %.3f on %s%s",
        theirs,
        images,
        "" if mine is None else f"; the student starts at {mine:.3f}",
    )
    if theirs <= (mine or 0.0):
        log.warning(
            "the teacher is no better than the student at its start (AP %.3f and %.3f on %s): are "
            "these its weights, its configuration and its classes?",
            theirs,
            mine or 0.0,
            images,
        )


def _part_of_validation(session: Session, most: int) -> Evaluator:
    """An evaluator of at most so many images, spread over the validation data."""
    assert session.val is not None
    dataset = session.val.dataset
    index = dataset.index
    if len(index) > most:
        chosen = np.unique(np.linspace(0, len(index) - 1, most).round().astype(np.int64))
        index = index.subset(chosen)
    part = DetectionDataset(
        index,
        dataset.transforms,
        training=False,
        seed=session.seed,
        in_channels=dataset.in_channels,
    )
    return Evaluator(
        loader=loader_of(session.config, "val_dataloader", part, session.seed, session.device),
        index=index,
        image_spec=session.image_spec,
        postprocessor=build_postprocessor(session.config),
        device=session.device,
        class_map=session.class_map,
    )
