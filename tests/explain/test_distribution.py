"""Edge distributions: they sum to 1, their expectation is the detector's own box."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.engine.predictor import Predictor
from detrkit.engine.runtime import TorchRuntime
from detrkit.engine.weights import open_detector
from detrkit.errors import UsageError
from detrkit.explain import distribution
from detrkit.explain.distribution import EdgeDistributions
from detrkit.structures import ImageSpec
from tests.engine.bright import bright_runtime, picture
from tests.explain.likeness import assert_like
from tests.export.families import family


def detector_of(name: str, folder: Path) -> Predictor:
    return Predictor(TorchRuntime.of(open_detector(family(name).save(folder / "best.pth"))))


@pytest.fixture(scope="module")
def dfine(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return detector_of("dfine", tmp_path_factory.mktemp("dfine"))


def made(probabilities: np.ndarray, **more: object) -> EdgeDistributions:
    """A detection with given distributions (L, 4, R + 1)."""
    bins = probabilities.shape[-1]
    boxes = np.array([[40.0, 20, 100, 80]] * len(probabilities), np.float32)
    boxes += np.arange(len(boxes), dtype=np.float32)[:, None] * [-2, -1, 2, 1]
    values = {
        "label": 0, "name": "cat", "score": 0.9, "query": 3,
        "start_xyxy": np.array([44, 22, 96, 76], np.float32), "first_xyxy": boxes[0],
        "boxes_xyxy": boxes, "probabilities": probabilities.astype(np.float32),
        "weights": np.linspace(-2, 2, bins, dtype=np.float32),
        "unit": np.array([10, 5, 10, 5], np.float32),
        "picture": np.asarray(picture()), **more,
    }  # fmt: skip
    return EdgeDistributions(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("name", ["dfine", "deim", "deimv2_hgnet", "deimv2_vit"])
def test_the_box_is_the_expectation(name: str, resize: str, tmp_path: Path) -> None:
    detector = detector_of(name, tmp_path)
    spec = detector.image_spec
    detector.runtime.image_spec = replace(spec, resize=resize)  # type: ignore[arg-type]
    image = picture((90, 70), (10, 10, 60, 50))
    found = distribution(detector, image, conf=0, max_det=5)
    answers = detector.predict(image, conf=0, max_det=5)
    assert len(found) == 5
    for each, answer in zip(found, answers, strict=True):
        assert (each.name, each.score) == (answer.name, answer.score)
        np.testing.assert_array_equal(each.boxes_xyxy[-1], answer.box_xyxy)
        np.testing.assert_allclose(each.probabilities.sum(-1), 1, atol=1e-5)
        outwards = np.array([-1, -1, 1, 1])
        moved = each.first_xyxy + outwards * each.shifts
        np.testing.assert_allclose(moved, each.boxes_xyxy, atol=1e-2)
        assert each.iou_with_last[-1] == pytest.approx(1, abs=1e-5)


@given(st.integers(2, 20), st.integers(0, 1000))
@settings(max_examples=25)
def test_entropy_lies_between_certain_and_anything(half: int, seed: int) -> None:
    bins = 2 * half + 1
    rng = np.random.default_rng(seed)
    some = rng.dirichlet(np.ones(bins), (1, 4))
    one = np.zeros((1, 4, bins))
    one[..., rng.integers(bins)] = 1
    even = np.full((1, 4, bins), 1 / bins)
    for probabilities, least, most in ((some, 0, 1), (one, 0, 1e-6), (even, 1 - 1e-6, 1 + 1e-6)):
        entropy = made(probabilities).entropy
        assert (entropy >= least - 1e-6).all()
        assert (entropy <= most + 1e-6).all()


def test_filters(dfine: Predictor) -> None:
    image = picture()
    assert distribution(dfine, image, conf=1.0) == []
    only = distribution(dfine, image, conf=0, classes=["dog"], max_det=3)
    assert {each.name for each in only} == {"dog"}
    with pytest.raises(UsageError, match="knows no class"):
        distribution(dfine, image, classes=["bird"])


def test_the_first_rt_detrs_have_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="predicts boxes directly"):
        distribution(detector_of("rtdetrv2", tmp_path), picture())
    with pytest.raises(UsageError, match="cannot be looked into"):
        distribution(Predictor(bright_runtime(ImageSpec((64, 96)))), picture())


def test_plain_values(dfine: Predictor, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    picture().save(file)
    (found,) = distribution(dfine, file, conf=0)
    values = found.to_dict()
    assert values["path"] == str(file)
    assert [layer["layer"] for layer in values["layers"]] == [1, 2]
    assert values["box"] == found.boxes_xyxy[-1].tolist()
    rows = found.rows()
    assert len(rows) == 2 * 4
    assert [row["shift_pixels"] for row in rows[-4:]] == found.shifts[-1].tolist()
    arrays = found.arrays()
    np.testing.assert_allclose(arrays["weighted"].sum(-1), arrays["shifts"])


def peaked(layers: int = 3, bins: int = 33) -> np.ndarray:
    """Peaks that wander to the right and sharpen from layer to layer."""
    n = np.arange(bins)
    centre = np.array([10, 14, 18, 22])[None, :, None] + np.arange(layers)[:, None, None]
    width = np.array([4.0, 2.5, 1.5])[:layers, None, None]
    values = np.exp(-(((n - centre) / width) ** 2))
    return values / values.sum(-1, keepdims=True)


@pytest.mark.parametrize("width", ["page", "column"])
def test_figure(width: str, tmp_path: Path) -> None:
    assert_like(made(peaked()).figure(width), f"distribution_{width}", tmp_path)


def test_another_figure_is_not_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETRKIT_REDRAW", raising=False)
    for other in (peaked()[..., ::-1], peaked()[:2]):
        with pytest.raises(AssertionError, match="differs by"):
            assert_like(made(other).figure(), "distribution_page", tmp_path)
