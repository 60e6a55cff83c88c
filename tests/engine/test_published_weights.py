"""Genuine published weights, through the doors that users take: the numbers they are known for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detrkit
from detrkit.cli.app import main
from detrkit.engine.evaluation import evaluate_weights
from detrkit.structures import Detections, ImageSpec

#: DEIMv2 Atto on COCO, as a checkpoint by the authors' names and as their ONNX file.
FILES = ("deimv2_hgnetv2_atto_coco_from_onnx.pth", "deimv2_hgnetv2_atto_coco.onnx")


@pytest.fixture(params=FILES)
def weights(request: pytest.FixtureRequest, reference: Path) -> Path:
    path = reference / "weights" / str(request.param)
    if not path.is_file():
        pytest.skip(f"no weights at {path}")
    return path


@pytest.fixture
def expected(reference: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((reference / "weights" / "expected.json").read_text())
    return content


def pairs(found: Detections, listed: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Differences (pixels, score) of detections that are the same one, best first."""
    left = set(range(len(found)))
    result = []
    for entry in listed:
        category = [found.class_map.category_ids[label] for label in found.labels]
        same = [i for i in left if category[i] == entry["category_id"]]
        assert same, f"nothing left for {entry}"
        distance = {i: float(np.abs(found.boxes_xyxy[i] - entry["bbox_xyxy"]).max()) for i in same}
        best = min(same, key=distance.__getitem__)
        left.remove(best)
        result.append((distance[best], abs(float(found.scores[best]) - entry["score"])))
    return result


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_numbers_and_detections(
    weights: Path, split: str, expected: dict[str, Any], shared_data: Callable[[str], Path]
) -> None:
    listed = expected[f"instances_{split}.json"]
    measured = evaluate_weights(weights, data=shared_data("coco_cc"), split=split, device="cpu")
    metrics = measured.result.metrics
    assert metrics.images == listed["images"]
    np.testing.assert_allclose(list(metrics.values.values()), listed["stats"], atol=5e-4)
    count = 0
    for found in measured.result.detections:
        assert found.path is not None
        wanted = listed["detections_over_0_4"].get(Path(found.path).name, [])
        over = found.select(np.flatnonzero(found.scores >= 0.4))
        assert len(over) == len(wanted)
        differences = pairs(over, wanted)
        assert all(pixels < 0.1 and score < 1e-3 for pixels, score in differences)
        count += len(differences)
    assert count == sum(len(d) for d in listed["detections_over_0_4"].values())


def test_the_api_needs_nothing_else(
    weights: Path, expected: dict[str, Any], shared_data: Callable[[str], Path]
) -> None:
    detector = detrkit.load(weights, device="cpu")
    assert detector.image_spec == ImageSpec((320, 320))
    assert detector.class_map.names[0] == "person"
    for name, listed in list(expected["instances_val.json"]["detections_over_0_4"].items())[:4]:
        image = shared_data("coco_cc") / "images" / "val" / name
        found = detector.predict(image, conf=0.4)
        assert len(found) == len(listed)
        assert all(pixels < 0.1 and score < 1e-3 for pixels, score in pairs(found, listed))


def test_the_command_line(
    weights: Path,
    expected: dict[str, Any],
    shared_data: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = shared_data("coco_cc")
    assert main(["eval", "-w", str(weights), "--data", str(data), "--json", "-d", "cpu"]) == 0
    numbers = list(json.loads(capsys.readouterr().out)["metrics"].values())
    np.testing.assert_allclose(numbers, expected["instances_val.json"]["stats"], atol=5e-4)
