"""Laws of boxes: formats invert each other, IoU and GIoU keep their bounds, nothing is NaN."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detrkit.ops.boxes import (
    box_area,
    box_iou,
    cxcywh_to_xyxy,
    generalized_box_iou,
    inverse_sigmoid,
    paired_giou,
    paired_iou,
    xyxy_to_cxcywh,
)

unhurried = settings(deadline=None, max_examples=40)  # the first call waits for torch

#: Multiples of 1/64 are exact in float32, so that equal corners stay equal.
fraction = st.integers(0, 64).map(lambda n: n / 64)


@st.composite
def boxes(draw: st.DrawFn, at_least: int = 0) -> Tensor:
    """(N, 4) xyxy in 0–1; degenerate ones too."""
    rows = draw(st.lists(st.tuples(*[fraction] * 4), min_size=at_least, max_size=6))
    ends = torch.tensor(rows).reshape(-1, 2, 2)
    return torch.cat((ends.amin(1), ends.amax(1)), dim=-1)


@unhurried
@given(boxes())
def test_formats_invert_each_other(boxes_xyxy: Tensor) -> None:
    back = cxcywh_to_xyxy(xyxy_to_cxcywh(boxes_xyxy))
    torch.testing.assert_close(back, boxes_xyxy, atol=1e-6, rtol=0)


@unhurried
@given(boxes(), boxes())
def test_iou_and_giou_keep_their_bounds(a: Tensor, b: Tensor) -> None:
    iou, union = box_iou(a, b)
    giou = generalized_box_iou(a, b)
    assert iou.shape == union.shape == giou.shape == (len(a), len(b))
    assert ((iou >= 0) & (iou <= 1 + 1e-6)).all()
    assert ((giou >= -1 - 1e-6) & (giou <= iou + 1e-6)).all()
    torch.testing.assert_close(giou, generalized_box_iou(b, a).T)


@unhurried
@given(boxes(at_least=1))
def test_pairs_are_the_diagonal(a: Tensor) -> None:
    b = a.flip(0)
    torch.testing.assert_close(paired_iou(a, b), box_iou(a, b)[0].diagonal())
    torch.testing.assert_close(paired_giou(a, b), generalized_box_iou(a, b).diagonal())


@unhurried
@given(boxes(at_least=1))
def test_a_box_overlaps_itself_wholly(a: Tensor) -> None:
    solid = box_area(a) > 0
    torch.testing.assert_close(paired_iou(a, a), solid.float())
    torch.testing.assert_close(paired_giou(a, a)[solid], torch.ones(int(solid.sum())))


def test_known_values() -> None:
    a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3]])
    assert paired_iou(a, b).item() == pytest.approx(1 / 7)
    assert paired_giou(a, b).item() == pytest.approx(1 / 7 - 2 / 9)


def test_negative_size_counts_as_zero() -> None:
    corners = cxcywh_to_xyxy(torch.tensor([[0.5, 0.5, -0.2, 0.2]]))
    torch.testing.assert_close(corners, torch.tensor([[0.5, 0.4, 0.5, 0.6]]))


def test_degenerate_boxes_give_finite_gradients() -> None:
    box = torch.tensor([[0.3, 0.3, 0.0, 0.0]], requires_grad=True)
    corners = cxcywh_to_xyxy(box)
    paired_giou(corners, corners.detach()).sum().backward()
    assert box.grad is not None
    assert box.grad.isfinite().all()


def test_inverse_sigmoid_inverts_inside_and_is_finite_outside() -> None:
    x = torch.tensor([0.01, 0.5, 0.99])
    torch.testing.assert_close(inverse_sigmoid(x).sigmoid(), x)
    assert inverse_sigmoid(torch.tensor([-1.0, 0.0, 1.0, 2.0])).isfinite().all()
