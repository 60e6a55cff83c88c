"""Which run `--auto-resume` continues: the one that the same command began, and did not end.

A command that a batch system repeats, or that is started again after a crash, finds its run by
`--output`, or by its arguments among `runs/<name>-<n>`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.run_dir import RunDirectory
from detrkit.errors import DetrkitError, UsageError

log = logging.getLogger("detrkit")

#: Arguments that say on what a run runs, not what it is.
_OF_THE_MACHINE = ("device", "workers")


@dataclass(frozen=True)
class EarlierRun:
    """What was found.

    Attributes:
        directory: of the run.
        checkpoint: its `last.pth`; None: it ended before the first was written.
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
        WeightsError: its checkpoint cannot be read.
    """
    asked = _essential(arguments)
    for directory in RunDirectory.find(name, output):
        begun = _essential(directory.arguments())
        if output:
            _check_output(directory, begun, asked)
            return EarlierRun(directory, _last(directory))
        if begun != asked or _in_progress(directory):
            continue
        run = EarlierRun(directory, _last(directory))
        if not run.is_finished:
            return run
    return None


def _essential(arguments: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(arguments, default=str))
    return {key: value for key, value in plain.items() if key not in _OF_THE_MACHINE}


def _check_output(directory: RunDirectory, begun: dict[str, Any], asked: dict[str, Any]) -> None:
    if not begun and any(directory.path.iterdir()):
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


def _last(directory: RunDirectory) -> Checkpoint | None:
    return Checkpoint.load(directory.last) if directory.last.is_file() else None


def _in_progress(directory: RunDirectory) -> bool:
    try:
        with directory.locked():
            return False
    except DetrkitError:
        return True
