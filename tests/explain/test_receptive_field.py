"""Effective receptive fields of networks whose fields are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from detrkit.engine.predictor import Predictor
from detrkit.errors import UsageError
from detrkit.explain import receptive_field
from detrkit.explain.opened import open_picture
from detrkit.explain.receptive_field import THRESHOLDS, ReceptiveField, centred_rectangles
from detrkit.structures import ImageSpec
from tests.engine.bright import picture
from tests.explain.detectors import FAMILIES, detector, of_model
from tests.explain.likeness import assert_like


class Stack(nn.Module):
    """n convolutions of 3 x 3 without a bias, as `backbone.i`; ReLU between them."""

    def __init__(self, count: int, *, ones: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        convolutions = [nn.Conv2d(3 if i == 0 else 4, 4, 3, 1, 1, bias=False) for i in range(count)]
        if ones:
            for convolution in convolutions:
                nn.init.ones_(convolution.weight)
        self.backbone = nn.Sequential(*convolutions)

    def forward(self, images: Tensor, targets: object = None) -> dict[str, Tensor]:
        logits = self.backbone(images).mean((2, 3))
        return {"pred_logits": logits[:, None, :3], "pred_boxes": logits[:, None, :4]}


def stack(count: int, *, ones: bool = False) -> Predictor:
    return of_model(Stack(count, ones=ones), ImageSpec((21, 31)))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_stack_of_convolutions_sees_what_it_can(count: int) -> None:
    found = receptive_field(stack(count), 3, layers=["backbone.*"])
    assert [field.layer for field in found.fields] == [f"backbone.{i}" for i in range(count)]
    for number, field in enumerate(found.fields, 1):
        assert field.shape == (21, 31)
        rows, columns = np.nonzero(field.contributions)
        assert rows.min() >= 10 - number
        assert rows.max() <= 10 + number
        assert columns.min() >= 15 - number
        assert columns.max() <= 15 + number
        assert field.contributions.any()


def test_contributions_of_a_linear_network() -> None:
    """With weights of one: paths from a pixel to the centre, times the channels on the way."""
    found = receptive_field(stack(2, ones=True), 1, layers=["backbone.1"]).fields[0]
    one = np.array([1, 2, 3, 2, 1])
    expected = np.outer(one, one) * 4 * 4 * 3
    np.testing.assert_allclose(found.contributions[8:13, 13:18], expected)
    assert found.contributions.sum() == pytest.approx(expected.sum())


@given(
    st.integers(1, 40), st.integers(1, 40), st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4)
)
@settings(max_examples=40)
def test_rectangles_of_an_even_map(height: int, width: int, thresholds: list[float]) -> None:
    """They take a share of the area of just that size, and never less."""
    thresholds = sorted(thresholds)
    found = centred_rectangles(np.ones((height, width), np.float32), thresholds)
    assert [part.threshold for part in found] == thresholds
    for part in found:
        assert part.area == pytest.approx(part.side**2)
        assert part.area >= part.threshold - 1e-6
        assert part.area <= part.threshold + 2 * (1 / height + 1 / width)
    assert [p.side for p in found] == sorted(p.side for p in found)


def test_rectangles_of_a_point_and_of_nothing() -> None:
    values = np.zeros((9, 9), np.float32)
    values[4, 4] = 1
    assert [part.side for part in centred_rectangles(values, THRESHOLDS)] == pytest.approx(
        [1 / 9] * 4
    )
    values[0, 0] = 1
    assert [part.side for part in centred_rectangles(values, (0.5, 0.6))] == pytest.approx(
        [1 / 9, 1]
    )
    assert centred_rectangles(np.zeros((3, 3), np.float32), THRESHOLDS) == []


def test_logarithms_are_those_of_the_paper() -> None:
    field = ReceptiveField("x", (1, 1), np.array([[0, 9], [99, 0]], np.float32))
    np.testing.assert_allclose(field.logarithmic, [[0, 0.5], [1, 0]])


def test_pictures_and_seeds() -> None:
    opened = stack(2)
    images = [open_picture(opened, picture((50, 60), (0, 0, 40, 40))).input] * 2
    found = receptive_field(opened, iter(images), layers=["backbone"])
    assert (found.images, found.kind) == (2, "pictures")
    noise = [receptive_field(detector("dfine"), 1, seed=s).fields[0] for s in (0, 0, 1)]
    assert np.array_equal(noise[0].contributions, noise[1].contributions)
    assert not np.array_equal(noise[0].contributions, noise[2].contributions)
    with pytest.raises(UsageError, match="no images"):
        receptive_field(opened, [], layers=["backbone"])


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str, tmp_path: Path) -> None:
    found = receptive_field(detector(name), 1)
    for field in found.fields:
        assert field.contributions.shape == (64, 96)
        assert np.isfinite(field.contributions).all()
        assert (field.contributions >= 0).all()
        assert field.contributions.any(), field.layer
        sides = [part.side for part in field.rectangles()]
        assert sides == sorted(sides)
    rows = found.save_table(tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "layer,values,threshold,side_share,area_share"
    assert len(rows) == 1 + 2 * len(THRESHOLDS) * len(found.fields)
    assert np.load(found.save_numbers(tmp_path / "a.npz")).files == [f.layer for f in found.fields]


def test_mistakes() -> None:
    with pytest.raises(UsageError, match="no map of the image"):
        receptive_field(detector("dfine"), 1, layers=["decoder.query_pos_head"])


def test_the_figure(tmp_path: Path) -> None:
    found = receptive_field(stack(4, ones=True), 1, layers=["backbone.*"])
    assert_like(found.figure("page"), "receptive_field", tmp_path)
    assert found.save(tmp_path / "a.svg", width="column").stat().st_size
