"""Box distributions against the paper's equations, and against their own inverse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.ops.boxes import cxcywh_to_xyxy
from detrkit.ops.distribution import (
    bbox2distance,
    distance2bbox,
    translate_gt,
    weighting_function,
)

unhurried = settings(deadline=None, max_examples=40)  # the first call waits for torch
UP, SCALE = torch.tensor([0.5]), torch.tensor([4.0])


@pytest.mark.parametrize("reg_max", [4, 8, 32])
@pytest.mark.parametrize("scale", [torch.tensor([4]), torch.tensor([-8.0]), 4.0])
def test_weighting_function_is_equation_4(reg_max: int, scale: torch.Tensor | float) -> None:
    values = weighting_function(reg_max, UP, scale)
    bound, half = 0.5 * abs(float(scale)), reg_max // 2
    step = (bound + 1) ** (2 / (reg_max - 2))
    expected = [step**n - 1 for n in range(half)]  # from the middle outwards
    assert values.shape == (reg_max + 1,)
    assert values[half:-1].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert values[-1].item() == pytest.approx(2 * bound)
    assert values[-2].item() == pytest.approx(bound, rel=1e-5)
    torch.testing.assert_close(values, -values.flip(0))
    assert (values.diff() > 0).all()


@unhurried
@given(st.lists(st.floats(-3.75, 3.75, width=32, allow_subnormal=False), min_size=1, max_size=8))
def test_bins_average_to_the_distance(distances: list[float]) -> None:
    distance = torch.tensor(distances)
    values = weighting_function(32, UP, SCALE)
    left, right, rest = translate_gt(distance, 32, SCALE, UP)
    torch.testing.assert_close(right + rest, torch.ones_like(distance))
    assert ((left >= 0) & (left < 32)).all()
    mean = values[left] * rest + values[left + 1] * right
    torch.testing.assert_close(mean, distance, atol=1e-5, rtol=1e-5)


def test_far_distances_fall_into_the_outermost_bins() -> None:
    edges = translate_gt(torch.tensor([-9.0, -4.0, 4.0, 9.0]), 32, SCALE, UP)
    assert edges.left.tolist() == [0, 0, 31, 31]
    assert edges.weight_right.tolist() == [0, 0, 1, 1]


def test_distances_and_boxes_invert_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(50, 4, generator=generator) * 0.5 + 0.25
    distance = torch.rand(50, 4, generator=generator) * 4 - 1.5
    boxes = distance2bbox(reference, distance, SCALE)
    edges = bbox2distance(reference, cxcywh_to_xyxy(boxes), 32, SCALE, UP)
    values = weighting_function(32, UP, SCALE)
    mean = values[edges.left] * edges.weight_left + values[edges.left + 1] * edges.weight_right
    torch.testing.assert_close(mean, distance, atol=2e-5, rtol=1e-4)


def test_no_distance_is_the_reference_box() -> None:
    reference = torch.tensor([[[0.4, 0.5, 0.2, 0.1]]])
    torch.testing.assert_close(distance2bbox(reference, torch.zeros(1, 1, 4), SCALE), reference)


def test_a_reference_box_without_size_is_finite() -> None:
    edges = bbox2distance(torch.zeros(1, 4), torch.tensor([[0.0, 0, 1, 1]]), 32, SCALE, UP)
    assert edges.weight_right.isfinite().all()


def test_no_boxes() -> None:
    none = torch.zeros(0, 4)
    edges = bbox2distance(none, none, 32, SCALE, UP)
    assert all(part.shape == (0, 4) for part in edges)
    assert distance2bbox(none, none, SCALE).shape == (0, 4)
