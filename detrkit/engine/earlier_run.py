"""Which run `--auto-resume` continues: the one that the same command began, and did not end.

A command that a batch system repeats, or that is started again after a crash, finds its run by
`--output`, or by its arguments among `runs/<name>-<n>`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.run_dir import RunDirectory
from detrkit.errors import DetrkitError, UsageError, WeightsError
from detrkit.words import count

log = logging.getLogger("detrkit")

#: Arguments that say on what a run runs, not what it is.
_OF_THE_MACHINE = ("device", "workers")


@dataclass(frozen=True)
class EarlierRun:
    """What was found.

    Attributes:
        directory: of the run.
        checkpoint: its `last.pth`, or where that is damaged the newest full one before it; None:
            it ended before the first was written.
    """

    directory: RunDirectory
    checkpoint: Checkpoint | None

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or patience ended them early."""
        if self.checkpoint is None:
            return False
        if self.checkpoint.position.get("ended_early"):
            return True
        epochs = int((self.checkpoint.config or {}).get("epochs") or 0)
        return int(self.checkpoint.position.get("epoch", 0)) >= epochs > 0


def find_earlier_run(
    name: str, output: str | Path | None, arguments: dict[str, Any]
) -> EarlierRun | None:
    """The run to continue; None: there is none.

    Args:
        name: stem of the configuration.
        output: the folder, where the user named one: it is continued whatever it was begun with.
        arguments: what the user asked for, as in `args.json`; without `output` these must be
            the same, and the run unfinished and not in progress.

    Raises:
        UsageError: `output` holds something else.
        WeightsError: none of its checkpoints can be read.
    """
    asked = _essential(arguments)
    for directory in RunDirectory.find(name, output):
        begun = _essential(directory.arguments())
        if output:
            _check_output(directory, begun, asked)
            return EarlierRun(directory, last_checkpoint(directory))
        if begun != asked or _in_progress(directory):
            continue
        run = EarlierRun(directory, last_checkpoint(directory))
        if not run.is_finished:
            return run
    return None


def _essential(arguments: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(arguments, default=str))
    return {key: value for key, value in plain.items() if key not in _OF_THE_MACHINE}


def _check_output(directory: RunDirectory, begun: dict[str, Any], asked: dict[str, Any]) -> None:
    if not begun and not directory.is_bare:
        raise UsageError(
            f"{directory} is not the folder of a run", hint="give --output a new folder"
        )
    changed = [key for key in {**begun, **asked} if begun.get(key) != asked.get(key)]
    if begun and changed and directory.last.is_file():
        log.warning(
            "%s goes on as it was begun; the command has changed since: %s",
            directory,
            ", ".join(f"{key} {begun.get(key)} -> {asked.get(key)}" for key in changed),
        )


def last_checkpoint(directory: RunDirectory) -> Checkpoint | None:
    """`last.pth`; where it is damaged the newest full checkpoint before it, with a warning.

    Returns:
        None: nothing was saved yet.

    Raises:
        WeightsError: none of them can be read.
    """
    if not directory.last.is_file():
        return None
    try:
        return Checkpoint.load(directory.last)
    except WeightsError as error:
        found = newest_before(directory)
        if found is None:
            raise
        log.warning("%s; the run goes on from %s", error.message, describe(found))
        return found


def newest_before(directory: RunDirectory) -> Checkpoint | None:
    """The newest checkpoint besides `last.pth` from which the run can go on."""
    numbered = sorted(directory.path.glob("epoch_*.pth"), reverse=True)
    others = ([directory.epoch_start], [directory.best_stage1])
    found = [_first_readable(files) for files in (numbered, *others)]
    return max((c for c in found if c is not None), key=_steps, default=None)


def describe(checkpoint: Checkpoint) -> str:
    """`runs/x-1/epoch_0012.pth (12 epochs)`."""
    return f"{checkpoint.path} ({count(checkpoint.last_epoch + 1, 'epoch')})"


def _steps(checkpoint: Checkpoint) -> int:
    return int(checkpoint.position.get("step", 0))


def _first_readable(files: Iterable[Path]) -> Checkpoint | None:
    for file in files:
        try:
            checkpoint = Checkpoint.load(file)
        except WeightsError:
            continue
        if checkpoint.can_resume:
            return checkpoint
    return None


def _in_progress(directory: RunDirectory) -> bool:
    try:
        with directory.locked():
            return False
    except DetrkitError:
        return True
