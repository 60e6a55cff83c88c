"""DEIMv2 Atto as published: what its queries do on real pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import detrkit
from detrkit.data.detect import open_dataset
from detrkit.data.negatives import open_negatives
from detrkit.engine.predictor import Predictor


@pytest.fixture(scope="module")
def detector(reference: Path) -> Predictor:
    path = reference / "weights" / "deimv2_hgnetv2_atto_coco_from_onnx.pth"
    if not path.is_file():
        pytest.skip(f"no weights at {path}")
    return detrkit.load(path, device="cpu")


def test_refined_boxes_are_the_published_ones(
    detector: Predictor, reference: Path, shared_data: Callable[[str], Path]
) -> None:
    """The authors' ONNX file gives the boxes; here the expectation of distributions does."""
    content = json.loads((reference / "weights" / "expected.json").read_text(encoding="utf-8"))
    listed = content["instances_val.json"]["detections_over_0_4"]
    for name in list(listed)[:4]:
        photo = shared_data("coco_cc") / "images" / "val" / name
        (found,) = detrkit.explain.distribution(detector, photo)
        best = max(listed[name], key=lambda row: row["score"])
        moved = found.first_xyxy + np.array([-1, -1, 1, 1]) * found.shifts[-1]
        np.testing.assert_allclose(moved, best["bbox_xyxy"], atol=0.1)
        assert found.score == pytest.approx(best["score"], abs=1e-3)


def test_trained_queries_find_by_rank(
    detector: Predictor, shared_data: Callable[[str], Path]
) -> None:
    """The first queries detect most, and cover more boxes the more of them there are."""
    index = open_dataset(shared_data("coco_cc"), "val", class_map=detector.class_map)
    found = detrkit.explain.queries(detector, index, limit=12)
    assert found.usage[:10].sum() > found.usage[50:].sum()
    assert found.inequality > 0.5
    coverage = found.coverage(found.first_answer)
    assert (np.diff(coverage) >= 0).all()
    assert coverage[-1] > 0.5
    sizes = np.sqrt(found.boxes[..., 2:].prod(-1))[found.found]
    levels = found.levels[found.found]
    assert sizes[levels == 0].mean() < sizes[levels == 1].mean()


def test_clothes_are_taken_for_people(
    detector: Predictor, shared_data: Callable[[str], Path]
) -> None:
    index = open_negatives(shared_data("negatives"), detector.class_map)
    found = detrkit.explain.over_activation(detector, index, conf=0.3, limit=12)
    assert len(found.scores)
    assert found.activation[24:40, 24:40].mean() > found.activation[:4].mean()
