"""The configuration: every problem of it, and the authors' quirks in force."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detrkit.config import Config, load_config
from detrkit.engine.derive import TrainFlags, load_with_flags
from detrkit.engine.doctor.report import Check, Section, note, of_error, ok
from detrkit.engine.parts import batch_size_of, split_of
from detrkit.engine.quirks import quirks_in_force
from detrkit.errors import ConfigError
from detrkit.words import count


def examine_settings(
    name: str, flags: TrainFlags, update: Sequence[str] = (), plugins: Sequence[Path] = ()
) -> tuple[Section, Config | None]:
    """Loads and checks a configuration.

    Args:
        name: file or catalogue name.
        flags: of the command line.
        update, plugins: likewise.

    Returns:
        The section, and the configuration if nothing is wrong with it.

    Raises:
        UsageError: a flag makes no sense.
    """
    section = Section("config")
    try:
        cfg = load_with_flags(name, flags, update=update, plugins=plugins)
    except ConfigError as error:
        section.checks += of_error("config", error)
        return section, None
    section.checks.append(_summary(cfg))
    section.checks += _quirks(cfg)
    return section, cfg


def data_of_broken(name: str, flags: TrainFlags, update: Sequence[str]) -> str | None:
    """The data set that a configuration names which does not pass the check."""
    if flags.data is not None:
        return flags.data
    try:
        data = load_config(name, update=update, strict=False).peek("data")
    except ConfigError:
        return None
    return data if isinstance(data, str) else None


def _summary(cfg: Config) -> Check:
    run = cfg.run
    size = "x".join(map(str, run.eval_spatial_size or ())) or "?"
    batch = batch_size_of(split_of(cfg, "train_dataloader"), default=4)
    text = (
        f"{cfg.name}: no problems; {cfg.get('model')} at {size}, "
        f"{count(run.epochs or 0, 'epoch')}, batch {batch}"
    )
    return ok(
        "config",
        text,
        values={
            "name": cfg.name,
            "path": str(cfg.path),
            "epochs": run.epochs,
            "batch": batch,
            "image_size": list(run.eval_spatial_size or ()),
        },
    )


def _quirks(cfg: Config) -> list[Check]:
    quirks = quirks_in_force(cfg.tree)
    if not quirks:
        return []
    optional = [quirk.name for quirk in quirks if quirk.optional]
    text = f"{count(len(quirks), 'quirk')} of the authors' code in force: " + ", ".join(
        quirk.name for quirk in quirks
    )
    hint = f"`detrkit show-config {cfg.name} --quirks` explains them"
    if optional:
        hint += f"; `-u recipe=detrkit` switches {len(optional)} of them off"
    return [note("config.quirks", text, hint, values={"quirks": [quirk.name for quirk in quirks]})]
