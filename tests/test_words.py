"""Numbers as words."""

from __future__ import annotations

import pytest

from detrkit import words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.123, "0.12 s"), (5.04, "5.0 s"), (72, "72 s"), (600, "10 min"), (5400, "1.5 h"),
     (86400, "24.0 h"), (10 * 86400, "10 days")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(2048, "2 KiB"), (64 << 20, "64 MiB"), (1 << 30, "1 GiB"), (25 << 29, "12.5 GiB"),
     (200_000 << 20, "195 GiB")],
)  # fmt: skip
def test_sizes(size: int, text: str) -> None:
    assert words.amount(size) == text


@pytest.mark.parametrize(
    ("number", "thing", "text"),
    [
        (1, "box", "1 box"),
        (2, "box", "2 boxes"),
        (9, "epoch", "9 epochs"),
        (3, "class", "3 classes"),
        (1200, "image", "1,200 images"),
        (4, "batch", "4 batches"),
        (0, "warning", "0 warnings"),
    ],
)
def test_counts(number: int, thing: str, text: str) -> None:
    assert words.count(number, thing) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"), [(0, 5, "none"), (1, 8, "12 %"), (1, 3000, "0.03 %")]
)
def test_shares(part: int, whole: int, text: str) -> None:
    assert words.share(part, whole) == text
