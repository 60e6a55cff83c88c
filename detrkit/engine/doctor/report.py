"""What `detrkit doctor` found: checks in sections, and the exit code that follows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

from detrkit.errors import ConfigError, DetrkitError

log = logging.getLogger("detrkit.doctor")

#: Exit code of a problem without a better one, as in `detrkit.errors`.
GENERAL = DetrkitError.exit_code


class Status(str, Enum):
    """How a check came out; only problems change the exit code.

    OK       as it should be
    NOTE     worth knowing
    WARNING  training runs, but slower or worse than it could
    PROBLEM  training would stop, or be spoilt
    """

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        code: stable name, e.g. "data.clipped".
        status: how it came out.
        text: one line: what was found.
        hint: what to do; empty when all is well.
        details: further lines, e.g. examples.
        values: the numbers behind the text, plain data.
        exit_code: of a problem, as `detrkit.errors` lists them; 0 for everything else.
    """

    code: str
    status: Status
    text: str
    hint: str = ""
    details: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "code": self.code,
            "status": self.status.value,
            "text": self.text,
            "hint": self.hint or None,
            "details": list(self.details),
            "values": dict(self.values),
        }


def _check(
    status: Status,
    code: str,
    text: str,
    hint: str = "",
    *,
    details: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    exit_code: int = 0,
) -> Check:
    return Check(code, status, text, hint, tuple(details), values or {}, exit_code)


ok = partial(_check, Status.OK)
note = partial(_check, Status.NOTE)
warning = partial(_check, Status.WARNING)
problem = partial(_check, Status.PROBLEM, exit_code=GENERAL)


@dataclass
class Section:
    """Checks about one thing.

    Attributes:
        name: "environment", "config", "data", …
        checks: in the order in which they are shown.
    """

    name: str
    checks: list[Check] = field(default_factory=list)


@dataclass
class Report:
    """All sections."""

    sections: list[Section] = field(default_factory=list)

    def __iter__(self) -> Iterator[Check]:
        return (check for section in self.sections for check in section.checks)

    def count(self, status: Status) -> int:
        """How many checks came out so."""
        return sum(check.status is status for check in self)

    @property
    def exit_code(self) -> int:
        """Of the first problem that has one of its own: 3 config, 4 data, 5 weights, …

        1 where the machine alone has problems; 0 without any.
        """
        codes = [check.exit_code for check in self if check.status is Status.PROBLEM]
        own = [code for code in codes if code != GENERAL]
        return (own or codes or [0])[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "exit_code": self.exit_code,
            "counts": {status.value: self.count(status) for status in Status},
            "checks": [
                {"section": section.name, **check.to_dict()}
                for section in self.sections
                for check in section.checks
            ],
        }


def guarded(code: str, look: Callable[[], Check | Iterable[Check]]) -> list[Check]:
    """The checks that `look` makes; one that fails says so instead of ending the report."""
    found: list[Check] = []
    try:
        result = look()
        if isinstance(result, Check):
            return [result]
        found.extend(result)
    except DetrkitError as error:
        found += of_error(code, error)
    except Exception as error:
        log.debug("%s failed", code, exc_info=True)
        found.append(warning(code, f"could not be checked ({in_short(error)})", DEBUG))
    return found


#: What helps where detrkit itself fails.
DEBUG = "this is a bug in detrkit: `--debug` shows where, please report it"


def in_short(error: BaseException) -> str:
    """One line: the message of an error of ours, else the kind of error and its first line."""
    if isinstance(error, DetrkitError):
        return error.message.splitlines()[0]
    reason = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


def of_error(code: str, error: DetrkitError) -> list[Check]:
    """An error that training would end with, as problems: one for each that it lists."""
    if isinstance(error, ConfigError) and error.problems:
        return [
            problem(code, str(p), error.hint or "", exit_code=error.exit_code)
            for p in error.problems
        ]
    first, *rest = error.message.splitlines()
    details = [line.strip() for line in rest]
    return [problem(code, first, error.hint or "", details=details, exit_code=error.exit_code)]
