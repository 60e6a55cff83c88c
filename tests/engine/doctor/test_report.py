"""Checks, sections, exit codes; what is overheard."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from detrkit.engine.doctor import report
from detrkit.engine.doctor.report import Check, Report, Section, Status, guarded
from detrkit.engine.overheard import overheard
from detrkit.errors import ConfigError, DataError, MissingExtraError, Problem, WeightsError


def reported(*checks: Check) -> Report:
    return Report([Section("one", list(checks[:1])), Section("two", list(checks[1:]))])


def problems(*codes: int) -> list[Check]:
    return [report.problem(f"c{code}", "", exit_code=code) for code in codes]


@pytest.mark.parametrize(
    ("checks", "code"),
    [
        ([], 0),
        ([report.ok("a", ""), report.note("b", ""), report.warning("c", "")], 0),
        (problems(1), 1),
        (problems(1, 5), 5),
        (problems(3, 4, 5), 3),
        ([report.warning("a", ""), *problems(4, 1)], 4),
    ],
)
def test_the_exit_code(checks: list[Check], code: int) -> None:
    assert reported(*checks).exit_code == code


def test_plain_data() -> None:
    found = reported(report.ok("a", "fine"), report.warning("b", "hm", "do this", values={"n": 2}))
    data = json.loads(json.dumps(found.to_dict()))
    assert data["counts"] == {"ok": 1, "note": 0, "warning": 1, "problem": 0}
    assert data["checks"][0]["hint"] is None
    assert data["checks"][1] == {
        "section": "two", "code": "b", "status": "warning", "text": "hm", "hint": "do this",
        "details": [], "values": {"n": 2},
    }  # fmt: skip


def test_a_check_that_fails_says_so_and_keeps_what_it_found() -> None:
    def look() -> Iterator[Check]:
        yield report.ok("a", "fine")
        raise ZeroDivisionError("division by zero\nsecond line")

    first, second = guarded("a.b", look)
    assert first.status is Status.OK
    assert second.status is Status.WARNING
    assert second.text == "could not be checked (ZeroDivisionError: division by zero)"
    assert second.code == "a.b"


def test_errors_of_detrkit_keep_their_code_and_hint() -> None:
    def look() -> Check:
        raise WeightsError("they do not fit\n  layer 1\n  layer 2", hint="use others")

    (check,) = guarded("weights", look)
    assert (check.status, check.exit_code, check.hint) == (Status.PROBLEM, 5, "use others")
    assert check.details == ("layer 1", "layer 2")
    missing = report.of_error("x", MissingExtraError("timm", "timm", "TimmBackbone"))
    assert missing[0].exit_code == 6


def test_every_problem_of_a_configuration_is_a_check() -> None:
    error = ConfigError("2 problems", problems=[Problem("a.yml:3", "no"), Problem("-u x", "why")])
    checks = report.of_error("config", error)
    assert [check.text for check in checks] == ["a.yml:3  no", "-u x  why"]
    assert {check.exit_code for check in checks} == {3}


def test_interrupts_pass() -> None:
    def look() -> Check:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded("a", look)


def test_warnings_are_overheard_and_information_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("detrkit.some.part")
    with caplog.at_level(logging.DEBUG, logger="detrkit"):
        with overheard() as said:
            log.warning("beware of %s", "the dog")
            log.info("reading")
        with overheard(quiet=True):
            log.info("hush")
            log.debug("detail")
        log.warning("aloud")
    assert said == ["beware of the dog"]
    assert [record.getMessage() for record in caplog.records] == ["reading", "detail", "aloud"]


def test_the_log_is_as_before_after_an_error() -> None:
    logger = logging.getLogger("detrkit")
    before = (logger.handlers, logger.propagate)
    with pytest.raises(DataError), overheard():
        raise DataError("no")
    assert (logger.handlers, logger.propagate) == before
