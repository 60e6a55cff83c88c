"""Losses, matches and gradients of every family equal the reference numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.reference.criteria import results

FAMILIES = ("dfine", "deim", "deim_rtdetrv2", "deimv2", "deimv2_atto", "rtdetrv2")
CASES = ("normal", "one_empty", "crowded", "all_empty")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_criterion_equals_the_reference(reference: Path, family: str, case: str) -> None:
    path = reference / "parity" / "criterion" / f"{family}_{case}.json"
    stored = json.loads(path.read_text(encoding="utf-8"))["results"]
    ours = results(path)
    assert set(stored) == set(ours)
    assert ("late" in stored) == family.startswith("deimv2")
    for run, expected in stored.items():
        compare(expected, ours[run])


def compare(stored: dict[str, Any], ours: dict[str, Any]) -> None:
    """One run of a case: losses 1e-5 relative, pairs exactly, gradient sums 1e-5 of their size."""
    losses, indices = stored["losses"], stored["indices"]
    # Where the union hangs on an unstable sort, ours is the one of the stable sort.
    stable = stored["with_stable_sort"] or {"same_union": True}
    same_union = stable["same_union"]
    if not same_union:
        losses, indices = stable["losses"], {**indices, "union": stable["union"]}

    assert ours["indices"] == indices
    assert set(ours["losses"]) == set(losses)
    for name, value in losses.items():
        assert ours["losses"][name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
    if not same_union and losses != stored["losses"]:
        return  # total and gradients are stored for the other union
    assert ours["total"] == pytest.approx(stored["total"], rel=1e-6)
    assert set(ours["gradients"]) == set(stored["gradients"])
    for name, gradient in stored["gradients"].items():
        found = ours["gradients"][name]
        assert (found is None) == (gradient is None), name
        if gradient is not None:
            size = max(gradient["abs"], 1e-3)
            assert found["abs"] == pytest.approx(gradient["abs"], abs=1e-5 * size), name
            assert found["sum"] == pytest.approx(gradient["sum"], abs=1e-5 * size), name
