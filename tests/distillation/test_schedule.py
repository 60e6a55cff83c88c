"""The window of a distillation, as a function of the position in the run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrkit.distillation.schedule import Decay, Window
from detrkit.errors import ConfigError


def test_before_inside_and_behind() -> None:
    window = Window(2, 5)
    assert [window.factor(e) for e in (0, 1.99, 2, 3.5, 4.99, 5, 9)] == [0, 0, 1, 1, 1, 0, 0]
    assert [window.is_open(e) for e in (1, 2, 4, 5)] == [False, True, True, False]
    assert [window.is_over(e) for e in (1, 4, 5)] == [False, False, True]


def test_warmup_and_decays() -> None:
    assert Window(0, 10, warmup=2).factor(0.5) == 0.25
    assert Window(0, 10, decay="linear").factor(7.5) == pytest.approx(0.25)
    assert Window(0, 10, decay="linear", decay_epochs=2).factor(7.9) == 1
    assert Window(0, 10, decay="linear", decay_epochs=2).factor(9.5) == pytest.approx(0.25)
    assert Window(0, 10, decay="cosine").factor(5) == pytest.approx(0.5)


@given(
    st.integers(0, 5),
    st.integers(1, 9),
    st.floats(0, 1),
    st.sampled_from(["none", "linear", "cosine"]),
    st.floats(0, 20),
)
def test_between_0_and_1(start: int, length: int, warmup: float, decay: Decay, at: float) -> None:
    window = Window(start, start + length, warmup, decay)
    assert 0 <= window.factor(at) <= 1
    assert (window.factor(at) == 0) or window.is_open(int(at))


@pytest.mark.parametrize(
    "arguments",
    [
        {"start": 3, "stop": 3},
        {"start": -1, "stop": 3},
        {"start": 0, "stop": 3, "warmup": 4},
        {"start": 0, "stop": 3, "warmup": 2, "decay_epochs": 2},
        {"start": 0, "stop": 3, "decay_epochs": 0},
    ],
)
def test_windows_without_meaning(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="distillation"):
        Window(**arguments)  # type: ignore[arg-type]
