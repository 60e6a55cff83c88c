"""When an exported file counts as the same detector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detrkit.engine.export_images import textures
from detrkit.engine.verification import Tolerance, compare
from detrkit.structures import ClassMap, Detections

CLASSES = ClassMap.from_names(["a", "b"])
EXACT = Tolerance.of("fp32")


def answer(count: int = 30, seed: int = 0, low: float = 0.2) -> Detections:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 80, (count, 2))
    return Detections(
        np.hstack([corners, corners + rng.uniform(10, 20, (count, 2))]).astype(np.float32),
        np.sort(rng.uniform(low, 0.95, count).astype(np.float32))[::-1].copy(),
        rng.integers(0, 2, count),
        CLASSES,
        orig_size=(100, 120),
    )


def test_equal_answers() -> None:
    result = compare([answer(), answer(5, 1)], [answer(), answer(5, 1)], EXACT, "here")
    assert (result.matched, result.found, result.detections, result.images) == (1, 1, 35, 2)
    assert (result.score_difference, result.box_difference) == (0, 0)
    assert result.passed
    assert "100.0% of 35 detections on 2 images (here)" in result.describe()


def test_order_does_not_matter() -> None:
    shuffled = answer().select(np.random.default_rng(1).permutation(30))
    assert compare([answer()], [shuffled], EXACT, "").passed


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        ({"scores": answer().scores + np.float32(0.004)}, True),
        ({"scores": answer().scores + np.float32(0.02)}, False),
        ({"boxes_xyxy": answer().boxes_xyxy + np.float32(0.5)}, True),  # of 120 pixels
        ({"boxes_xyxy": answer().boxes_xyxy + np.float32(2)}, False),
        ({"labels": 1 - answer().labels}, False),
        ({"boxes_xyxy": np.full((30, 4), np.nan, np.float32)}, False),
        ({"scores": np.full(30, np.nan, np.float32)}, False),
    ],
)
def test_differences(change: dict[str, np.ndarray], passes: bool) -> None:
    assert compare([answer()], [replace(answer(), **change)], EXACT, "").passed is passes


def test_what_is_missing_counts() -> None:
    found = answer()
    result = compare([found], [found.select(np.arange(20))], EXACT, "")
    assert result.matched == pytest.approx(2 / 3)
    assert not result.passed
    assert not compare([found], [found.select(np.arange(0))], EXACT, "").passed


def test_what_scores_low_does_not_count_but_untrained_models_do() -> None:
    faint = answer(low=0.2)
    faint.scores = faint.scores / 100
    result = compare([faint], [faint], EXACT, "")
    assert result.detections == 20
    mixed = answer()
    mixed.scores[10:] = 0.05
    assert compare([mixed], [mixed], EXACT, "").detections == 10


def test_beyond_the_border_nothing_is_compared() -> None:
    a, b = answer(), answer()
    a.boxes_xyxy[0], b.boxes_xyxy[0] = (-5, 10, 60, 40), (-30, 10, 60, 40)
    assert compare([a], [b], EXACT, "").passed


def test_ap_may_fall_a_little() -> None:
    base = compare([answer()], [answer()], Tolerance.of("fp16"), "")  # 0.05, AP 0.01
    assert replace(base, ap=0.395, ap_checkpoint=0.4).passed
    assert not replace(base, ap=0.38, ap_checkpoint=0.4).passed
    assert replace(base, ap=0.5, ap_checkpoint=0.4).passed
    assert "AP 0.3950, checkpoint 0.4000" in replace(base, ap=0.395, ap_checkpoint=0.4).describe()


def test_own_tolerance() -> None:
    worse = replace(answer(), scores=answer().scores + np.float32(0.02))
    assert compare([answer()], [worse], Tolerance.of("fp32", 0.03), "").passed


def test_textures_are_always_the_same() -> None:
    first, second = textures((64, 96)), textures((64, 96))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert len({picture.shape for picture in first}) == 8
    assert all(picture.float().std() > 20 for picture in first)
    assert textures((64, 96), channels=5)[0].shape[0] == 5
