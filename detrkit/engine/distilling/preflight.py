"""Measures the teacher as the student will meet it, before the run."""

from __future__ import annotations

import logging

import torch
from torch import nn

from detrkit.data.dataset import DetectionDataset
from detrkit.distillation.settings import Distillation
from detrkit.distillation.teacher import AsDetector
from detrkit.engine.data_sets import loader_of
from detrkit.engine.distilling.teachers import Opener
from detrkit.engine.distributed.group import copy_from_main
from detrkit.engine.evaluator import Evaluator
from detrkit.engine.parts import build_postprocessor
from detrkit.engine.session import Session
from detrkit.words import count

log = logging.getLogger("detrkit")


def preflight(session: Session, settings: Distillation, opener: Opener, model: nn.Module) -> None:
    """Measures the teacher as the student will meet it, and warns where it has little to teach.

    A student that starts from tuning weights is measured as well; one from random weights knows
    nothing.
    """
    source = opener.source()
    if session.val is None or not settings.preflight or not source.classes[0]:
        return
    evaluator = _part_of_validation(session, settings.preflight)
    columns = torch.tensor(source.classes[0], dtype=torch.int64, device=session.device)
    teacher = AsDetector(opener.teacher_of(source), columns, len(session.class_map))
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
    index = dataset.index.spread(most)
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
