"""Samples and deformable convolution against loops and torchvision."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision.ops
from torch import Tensor

from detrkit.ops.deform_conv import deform_conv2d, sample
from detrkit.ops.per_image import conv2d_per_image


def bilinear(x: Tensor, row: float, column: float) -> Tensor:
    """(C, H, W) between pixels, zeros outside: (C,)."""
    total = torch.zeros(x.shape[0], dtype=x.dtype)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < x.shape[1] and 0 <= j < x.shape[2]:
                total += x[:, i, j] * (1 - abs(row - i)) * (1 - abs(column - j))
    return total


def test_samples_are_bilinear() -> None:
    x = torch.randn(2, 3, 4, 5).double()
    rows, columns = torch.rand(2, 6).double() * 6 - 1, torch.rand(2, 6).double() * 7 - 1
    got = sample(x, rows, columns)
    for n in range(2):
        for p in range(6):
            expected = bilinear(x[n], float(rows[n, p]), float(columns[n, p]))
            assert torch.allclose(got[n, :, p], expected)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups", "deformable", "bias"),
    [(1, 1, 1, 1, 1, True), (2, 2, 2, 2, 2, False), (1, 0, 1, 4, 4, True)],
)
def test_deformable_convolution_is_torchvisions(
    stride: int, padding: int, dilation: int, groups: int, deformable: int, bias: bool
) -> None:
    x = torch.randn(2, 8, 9, 7)
    weight = torch.randn(12, 8 // groups, 3, 3)
    height, width = ((n + 2 * padding - 2 * dilation - 1) // stride + 1 for n in (9, 7))
    offset = torch.randn(2, deformable * 18, height, width)
    mask = torch.rand(2, deformable * 9, height, width)
    b = torch.randn(12) if bias else None
    expected = torchvision.ops.deform_conv2d(x, offset, weight, b, stride, padding, dilation, mask)
    got = deform_conv2d(x, offset, mask, weight, b, stride, padding, dilation, groups)
    assert torch.allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_kernels_of_each_image(groups: int) -> None:
    x = torch.randn(3, 4, 6, 5)
    weight, bias = torch.randn(3, 6, 4 // groups, 3, 3), torch.randn(6)
    got = conv2d_per_image(x, weight, bias, stride=2, padding=1, groups=groups)
    for n in range(3):
        expected = torch.nn.functional.conv2d(
            x[n : n + 1], weight[n], bias, stride=2, padding=1, groups=groups
        )
        assert torch.allclose(got[n : n + 1], expected, atol=1e-5)
