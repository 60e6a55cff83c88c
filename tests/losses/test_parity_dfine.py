"""Losses, matches and gradients equal the reference numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.reference.criteria import results

CASES = ("normal", "one_empty", "crowded", "all_empty")


@pytest.fixture(params=CASES)
def runs(request: pytest.FixtureRequest, reference: Path) -> list[tuple[Any, Any]]:
    """(stored, ours) of every run of a case."""
    path = reference / "parity" / "criterion" / f"dfine_{request.param}.json"
    stored = json.loads(path.read_text(encoding="utf-8"))["results"]
    ours = results(path)
    assert set(stored) == set(ours)
    return [(stored[run], ours[run]) for run in stored]


def test_criterion_equals_the_reference(runs: list[tuple[Any, Any]]) -> None:
    for stored, ours in runs:
        # Where the union hangs on an unstable sort, ours is the one of the stable sort.
        stable = stored["with_stable_sort"]
        same_union = stable["same_union"]
        losses = stored["losses"] if same_union else stable["losses"]
        union = stored["indices"]["union"] if same_union else stable["union"]

        assert ours["indices"] == {**stored["indices"], "union": union}
        assert list(ours["losses"]) == list(losses)
        for name, value in losses.items():
            assert ours["losses"][name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
        if not same_union:
            continue  # total and gradients are stored for the other union
        assert ours["total"] == pytest.approx(stored["total"], rel=1e-6)
        assert set(ours["gradients"]) == set(stored["gradients"])
        for name, gradient in stored["gradients"].items():
            found = ours["gradients"][name]
            assert (found is None) == (gradient is None), name
            if gradient is not None:
                size = max(gradient["abs"], 1e-3)
                assert found["abs"] == pytest.approx(gradient["abs"], abs=1e-5 * size), name
                assert found["sum"] == pytest.approx(gradient["sum"], abs=1e-5 * size), name
