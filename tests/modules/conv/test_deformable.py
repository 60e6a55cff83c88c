"""Convolutions whose points move, against loops over their equations."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.registry import MODULES
from tests.modules.naive import image, made, same
from tests.ops.test_deform_conv import bilinear


def test_zero_offsets_are_half_a_convolution() -> None:
    module = MODULES.create("DCNv2", in_channels=4, out_channels=6, stride=2, act=None)
    x = torch.randn(2, 4, 9, 7)
    conv = F.conv2d(x, module.conv.weight, stride=2, padding=1) / 2
    same(module(x), conv + module.conv.bias[:, None, None], 1e-6)


def test_offsets_are_pairs_over_both_parts() -> None:
    """dcnv2: the first two thirds are (dy, dx) pairs, and not all dy, then all dx."""
    module = MODULES.create("DCNv2", in_channels=2, act=None)
    with torch.no_grad():
        module.places.bias[8] = 1.0  # dy of the point in the middle
        module.places.bias[9] = 2.0  # and its dx, in the other third
        module.places.bias[18:] = 100.0  # masks of 1
        module.conv.weight.zero_()
        module.conv.weight[:, :, 1, 1] = torch.eye(2)
        module.conv.bias.zero_()
    x = torch.randn(1, 2, 6, 7)
    same(module(x)[..., :5, :5], x[..., 1:, 2:], 1e-5)


def aggregate(
    value: Tensor, offset: Tensor, weight: Tensor, group: int, side: int, **grid: float
) -> Tensor:
    """(H, W, C) with offsets (H', W', G·k²·2), x-major, and weights (H', W', G·k²)."""
    stride, dilation, scale = (grid.get(k, 1) for k in ("stride", "dilation", "scale"))
    height, width = offset.shape[:2]
    channels = value.shape[-1]
    out = torch.zeros(height, width, channels).double()
    maps_ = value.permute(2, 0, 1)
    each = channels // group
    for r, c, g in itertools.product(range(height), range(width), range(group)):
        for ix, iy in itertools.product(range(side), range(side)):
            p = g * side**2 + ix * side + iy
            dx, dy = offset[r, c, 2 * p], offset[r, c, 2 * p + 1]
            row = r * stride + ((iy - side // 2) * dilation + float(dy)) * scale
            column = c * stride + ((ix - side // 2) * dilation + float(dx)) * scale
            part = maps_[g * each : (g + 1) * each]
            out[r, c, g * each : (g + 1) * each] += weight[r, c, p] * bilinear(part, row, column)
    return out


@pytest.mark.parametrize(
    "arguments",
    [{}, {"stride": 2, "dilation": 2}, {"offset_scale": 1.5}, {"center_feature_scale": True}],
)
def test_dcnv3_point_by_point(arguments: dict[str, Any]) -> None:
    module = made("DCNv3", in_channels=4, group=2, **arguments)
    x = image(1, 4, 5, 4)
    with torch.no_grad():
        value = module.value(x[0].permute(1, 2, 0))
        side = F.conv2d(x, module.spatial.weight, module.spatial.bias, module.stride, 1, groups=4)
        query = F.layer_norm(
            side[0].permute(1, 2, 0), (4,), module.norm.weight, module.norm.bias, 1e-6
        )
        query = F.gelu(query)
        mask = module.mask(query).unflatten(-1, (2, 9)).softmax(-1).flatten(-2)
        out = aggregate(
            value,
            module.offset(query),
            mask,
            2,
            3,
            stride=module.stride,
            dilation=module.dilation,
            scale=module.offset_scale,
        )
        if module.center is not None:
            gate = module.center(query).sigmoid().repeat_interleave(2, -1)
            out = out * (1 - gate) + value * gate
        same(module(x)[0].permute(1, 2, 0), module.output(out))


@pytest.mark.parametrize("side", [None, 3])
def test_dcnv4_point_by_point(side: int | None) -> None:
    module = made("DCNv4", in_channels=4, group=2, dw_kernel_size=side)
    x = image(1, 4, 4, 5)
    with torch.no_grad():
        value = module.value(x[0].permute(1, 2, 0))
        places = module.places(module.spatial(x)[0].permute(1, 2, 0))
        assert places.shape[-1] == 56  # 54, to a multiple of 8
        offset = torch.cat([places[..., 0:18], places[..., 27:45]], -1)
        weight = torch.cat([places[..., 18:27], places[..., 45:54]], -1)
        out = module.output(aggregate(value, offset, weight, 2, 3))
        same(module(x)[0].permute(1, 2, 0), out)


def test_dcnv4_starts_with_its_bias() -> None:
    module = MODULES.create("DCNv4", in_channels=8)
    out = module(torch.randn(1, 8, 4, 4))
    same(out, module.output.bias[:, None, None].expand_as(out[0])[None], 1e-6)


@pytest.mark.parametrize("axis", ["row", "column"])
def test_a_strip_value_by_value(axis: str) -> None:
    strip = getattr(made("DSA", in_channels=4, kernel_size=5, group=2, dilation=2), axis)
    value, guide = image(1, 4, 4, 5), image(1, 4, 4, 5, seed=2)
    padding = (0, 2) if axis == "row" else (2, 0)
    with torch.no_grad():
        hidden = F.conv2d(guide, strip.spatial.weight, strip.spatial.bias, 1, padding, groups=4)
        hidden = F.layer_norm(
            hidden[0].permute(1, 2, 0), (4,), strip.norm.weight, strip.norm.bias, 1e-6
        )
        offset = strip.offset(F.gelu(hidden))  # (H, W, group then k)
        expected = torch.zeros(4, 4, 5).double()
        for r, c, g, k in itertools.product(range(4), range(5), range(2), range(5)):
            along = (k - 2) * 2 + float(offset[r, c, g * 5 + k])
            row, column = (r, c + along) if axis == "row" else (r + along, c)
            expected[2 * g : 2 * g + 2, r, c] += bilinear(value[0, 2 * g : 2 * g + 2], row, column)
        same(strip(value, guide)[0], expected)


def test_dsa_is_its_equation() -> None:
    module, x = made("DSA", in_channels=4), image(2, 4, 5, 6)
    u = F.gelu(module.first(x))
    a = module.spatial(u)
    v = module.value(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    gate = module.gate(module.column(module.row(v, a), a))
    same(module(x), x + module.last(u * gate))


@pytest.mark.parametrize("side", [3, 7])
def test_dsa_guides_its_strips_by_a_5x5_whatever_their_own_side(side: int) -> None:
    module = made("DSA", in_channels=4, dw_kernel_size=side)
    assert module.spatial.kernel_size == (5, 5)
    assert module.row.spatial.kernel_size == (1, side)
    assert module.column.spatial.kernel_size == (side, 1)


def snake(module: Any, x: Tensor) -> Tensor:
    """The points' places by the paper's recursion, one image, (C, H, W)."""
    k, half = module.kernel_size, module.kernel_size // 2
    delta = module.offset(x[None])[0]
    delta = delta[:k] if module.horizontal else delta[k:]
    height, width = x.shape[-2:]
    total = module.conv.bias[:, None, None].expand(-1, height, width).clone()
    for r, c in itertools.product(range(height), range(width)):
        place = {half: 0.0}
        for i in range(1, half + 1):
            ends = i == half and not module.accumulate_ends
            for p, inner in ((half + i, half + i - 1), (half - i, half - i + 1)):
                place[p] = float(delta[p, r, c]) + (0 if ends else place[inner])
        for p in range(k):
            if module.horizontal:
                row, column = r + module.extend_scope * place[p], c + p - half
            else:
                row, column = r + p - half, c + module.extend_scope * place[p]
            if not (0 <= row < height and 0 <= column < width):
                continue
            value = bilinear(x, min(row, height - 1), min(column, width - 1))
            weight = module.conv.weight.flatten(2)[..., p]
            total[:, r, c] += weight @ value
    return torch.relu(module.norm(total[None]))


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
@pytest.mark.parametrize("accumulate_ends", [True, False])
def test_a_snake_point_by_point(direction: str, accumulate_ends: bool) -> None:
    module = made(
        "DSConv",
        in_channels=4,
        kernel_size=5,
        direction=direction,
        extend_scope=1.5,
        accumulate_ends=accumulate_ends,
    )
    x = image(2, 4, 5, 4)
    with torch.no_grad():
        for b in range(2):  # the second from itself, and not from the first
            same(module(x)[b : b + 1], snake(module, x[b]))


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_all_points_of_a_snake_learn(direction: str) -> None:
    module = made("DSConv", in_channels=4, kernel_size=3, direction=direction)
    module(image(1, 4, 6, 6)).square().sum().backward()
    grad = module.offset.conv.weight.grad
    used = grad[:3] if direction == "horizontal" else grad[3:]
    assert used[0].any()
    assert used[2].any()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("DCNv2", {"in_channels": 8, "kernel_size": 2}),
        ("DCNv2", {"in_channels": 8, "deformable_groups": 3}),
        ("DCNv3", {"in_channels": 10}),
        ("DCNv3", {"in_channels": 8, "stride": 2, "center_feature_scale": True}),
        ("DCNv4", {"in_channels": 8, "kernel_size": 4}),
        ("DSA", {"in_channels": 9, "group": 2}),
        ("DSConv", {"in_channels": 6}),
        ("DSConv", {"in_channels": 8, "kernel_size": 4}),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|multiple|stride"):
        MODULES.create(name, **arguments)
