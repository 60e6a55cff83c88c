"""From a session to its distillation.

Everything that a user can get wrong is found here, before a run has a folder. Resuming lays the
adapters out as the checkpoint says, so that a run whose distillation is over needs no teacher.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from detrkit.config import Config, build
from detrkit.distillation.cache import AnswerCache
from detrkit.distillation.distiller import Distiller
from detrkit.distillation.layout import MapPair
from detrkit.distillation.settings import Distillation
from detrkit.distillation.teacher import queried_decoder
from detrkit.engine.distilling.losses import check_losses, terms_of
from detrkit.engine.distilling.preflight import preflight
from detrkit.engine.distilling.teachers import Opener
from detrkit.engine.distributed.group import copy_from_main
from detrkit.engine.randomness import mix
from detrkit.engine.session import Session
from detrkit.errors import ConfigError

log = logging.getLogger("detrkit")

#: Keeps the adapters' draws apart from others of the same seed.
_ADAPTERS = 0xADA


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
    check_losses(settings, session.config)
    if settings.probes:
        queried_decoder(student, "student")
    layout = _layout_of(saved)
    if layout is None:
        layout = opener.layout(student)
    elif not window.is_over(epoch):
        opener.source()
    opener.stages = tuple(dict.fromkeys(pair.teacher for pairs in layout for pair in pairs))
    with torch.random.fork_rng([]):  # whatever else the run draws, adapters start alike
        torch.manual_seed(mix(session.seed, _ADAPTERS))
        terms = terms_of(settings, session.config, layout).to(session.device)
    copy_from_main(terms.state_dict().values())
    distiller = Distiller(
        open_teacher=opener,
        window=window,
        terms=terms,
        probes=settings.probes,
        weight=settings.weight,
        ratio_every=settings.ratio_every,
        cache=AnswerCache(settings.cache_mb) if settings.cache_mb else None,
    )
    if saved is None and not quiet:
        _announce(settings, opener, layout, distiller)
        preflight(session, settings, opener, student)
    return distiller


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
