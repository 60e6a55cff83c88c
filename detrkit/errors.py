"""Errors that a user can cause, each with an exit code and a hint.

    DetrkitError           1   a bug, or anything without a better name
    ├── UsageError         2   wrong command line
    ├── ConfigError        3   YAML, overrides, plug-ins, unknown components
    │   └── MapSizeError       maps of a size that a module cannot take; a ValueError as well
    ├── DataError          4   data set, annotations, images
    ├── WeightsError       5   checkpoints and weight files
    ├── MissingExtraError  6   an optional dependency is not installed
    ├── TrainingDiverged   7   non-finite loss or gradient
    ├── Interrupted        130 Ctrl-C; the state was saved
    └── OtherProcessFailed     another process of the same run failed, with its exit code

The command line prints `error: <message>` and `hint: <hint>` without a traceback and leaves
with `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class DetrkitError(Exception):
    """Base of every error that detrkit raises on purpose."""

    exit_code: int = 1
    #: Whether every process of a run raises it at the same place; the main one tells it.
    agreed: bool = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DetrkitError):
    """The command line asks for something that cannot be done."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where: `file.yml:14`, `--update a.b=c`, an annotation id."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}  {self.message}" if self.where else self.message


class ConfigError(DetrkitError):
    """The configuration is wrong. Holds every problem found, not only the first."""

    exit_code = 3

    def __init__(
        self, message: str, *, problems: Sequence[Problem] = (), hint: str | None = None
    ) -> None:
        self.problems = tuple(problems)
        lines = [message, *(f"  {problem}" for problem in self.problems)]
        super().__init__("\n".join(lines), hint=hint)


class MapSizeError(ConfigError, ValueError):
    """A module cannot take maps of this size: the input of the model is to have another one."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message, hint="take another input size (--size), or another module in this place"
        )


class DataError(DetrkitError):
    """A data set, an annotation or an image cannot be used."""

    exit_code = 4


class WeightsError(DetrkitError):
    """A checkpoint or weight file cannot be read or does not fit."""

    exit_code = 5


class MissingExtraError(DetrkitError):
    """An optional dependency is missing.

    Args:
        package: what could not be imported.
        extra: the detrkit extra that installs it.
        purpose: what it is needed for, e.g. "counting FLOPs".
    """

    exit_code = 6

    def __init__(self, package: str, extra: str | None, purpose: str) -> None:
        install = f"detrkit[{extra}]" if extra else package
        super().__init__(
            f"{purpose} needs the package `{package}`, which is not installed",
            hint=f"pip install '{install}'",
        )


class TrainingDiverged(DetrkitError):
    """The loss or a gradient is not finite."""

    exit_code = 7


class Interrupted(DetrkitError):
    """The user pressed Ctrl-C; everything worth keeping was saved before this is raised."""

    exit_code = 130


class OtherProcessFailed(DetrkitError):
    """Another process of this run failed and has said why; the command line adds nothing.

    Args:
        exit_code: of that process.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of this run failed; its message says why")
        self.exit_code = exit_code


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`", did you mean `hidden_dim`?"` for the closest of `known`, or an empty string."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    if not matches:
        lowered = {k.lower(): k for k in known}
        matches = [lowered[word.lower()]] if word.lower() in lowered else []
    # `repr`: keys of a damaged file may break the line
    return f", did you mean `{repr(matches[0])[1:-1]}`?" if matches else ""
