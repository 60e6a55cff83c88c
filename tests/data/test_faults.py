"""Counting faults: every one counts, a thousand of a kind are kept, and each only once."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrkit.data.faults import KEPT, Fault, FaultKind, FaultReport, one_line

EMPTY, OUTSIDE = FaultKind.EMPTY_BOX, FaultKind.OUTSIDE
FAULTS = st.lists(
    st.builds(
        Fault,
        st.sampled_from([EMPTY, OUTSIDE, FaultKind.POLYGON]),
        st.sampled_from(["a.json", "b.json"]),
        st.sampled_from(["", "annotation 1", "annotation 2"]),
        count=st.integers(1, 5),
    ),
    max_size=12,
)


def test_a_million_faults_cost_nothing() -> None:
    report = FaultReport()
    described: list[int] = []

    def describe(case: int) -> tuple[str, str, str, str]:
        described.append(case)
        return "a.json", f"annotation {case}", "", "cat"

    report.add_all(EMPTY, range(1_000_000), describe)
    report.add(OUTSIDE, "a.json", count=7)
    assert len(described) == KEPT
    assert report.counts == {EMPTY: 1_000_000, OUTSIDE: 7}
    assert len(report) == 1_000_007
    assert len(list(report)) == KEPT + 1
    assert report.lines(2) == [
        "a.json: annotation 0: zero or negative size, box skipped",
        "a.json: annotation 1: zero or negative size, box skipped",
        "… and 999998 more: zero or negative size, box skipped",
        "a.json: box outside the image, skipped",
    ]


@given(FAULTS, FAULTS)
def test_merged_reports_count_common_faults_once(first: list[Fault], second: list[Fault]) -> None:
    a, b = FaultReport(first), FaultReport(second)
    merged = FaultReport.merge([a, b])
    assert set(merged) == {*first, *second}
    for kind in merged.counts:
        common = sum(f.count for f in second if f.kind is kind and f in first)
        assert merged.counts[kind] == a.counts.get(kind, 0) + b.counts.get(kind, 0) - common


def test_parts_of_one_data_set_share_their_faults() -> None:
    report = FaultReport()
    report.add_all(EMPTY, range(3 * KEPT), lambda i: ("a.json", f"annotation {i}", "", ""))
    other = FaultReport()
    other.add_all(EMPTY, range(3 * KEPT), lambda i: ("b.json", f"annotation {i}", "", ""))
    assert FaultReport.merge([report, report]) == report
    assert FaultReport.merge([report, other, report]).counts == {EMPTY: 6 * KEPT}


@given(FAULTS)
def test_round_trip_through_json(faults: list[Fault]) -> None:
    report = FaultReport(faults)
    report.add_all(EMPTY, range(KEPT + 5), lambda i: ("a.json", f"annotation {i}", "", "cat"))
    assert FaultReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


@given(st.text(max_size=50))
def test_values_in_messages_are_one_line(text: str) -> None:
    assert one_line(text).isprintable()
    report = FaultReport()
    report.add(EMPTY, text, text * 100, text)
    line = str(report.faults[0])
    assert line.isprintable()
    assert len(line) < 20_000


def test_what_is_worth_knowing_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    report = FaultReport()
    report.add(FaultKind.CLASS_WITHOUT_BOXES, "a.json", "1 of 2 classes", "`dog`")
    report.add(EMPTY, "a.json", "annotation 1")
    with caplog.at_level(logging.INFO, "detrkit"):
        report.log()
    assert [r.levelname for r in caplog.records] == ["INFO", "WARNING"]
