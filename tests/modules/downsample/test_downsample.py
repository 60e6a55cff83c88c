"""Down-sampling against its equations."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.layers.windows import space_to_depth
from detrkit.registry import MODULES
from tests.modules.naive import image, made, same


def phases(x: Tensor) -> Tensor:
    """Pixels (0, 0), (1, 0), (0, 1), (1, 1) of each cell."""
    return torch.cat([x[..., i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))], 1)


def test_depth_of_a_cell() -> None:
    x = image(2, 3, 4, 6)
    same(space_to_depth(x), phases(x))
    with pytest.raises(ValueError, match="4x5"):
        space_to_depth(x[..., :5])


def test_guided_context_by_hand() -> None:
    module = made("ContextGuidedBlock_Down", in_channels=4, out_channels=8, reduction=4)
    x = image(2, 4, 7, 6)
    conv, norm, prelu = module.down
    u = F.conv2d(x, conv.weight, stride=2, padding=1)
    assert norm.eps == module.joint[0].eps == 1e-3
    u = F.prelu(norm(u), prelu.weight)
    near = F.conv2d(u, module.local.weight, padding=1, groups=8)
    far = F.conv2d(u, module.surrounding.weight, padding=2, dilation=2, groups=8)
    joint = module.joint[0](torch.cat([near, far], 1))
    z = F.conv2d(F.prelu(joint, module.joint[1].weight), module.reduce.weight)
    first, _, second = module.gate
    gate = torch.sigmoid(second(first(z.mean((2, 3))).relu()))
    same(module(x), z * gate[..., None, None])


@pytest.mark.parametrize("quadrants", [False, True])
def test_adaptive_weights_pixel_by_pixel(quadrants: bool) -> None:
    module = made("LAWDS", in_channels=4, group=2, quadrants=quadrants)
    x = image(1, 4, 4, 6)
    weights, candidates = module.weigh(x)[0], module.candidates(x)[0]
    y = module(x)[0]
    for r, c in itertools.product(range(2), range(3)):
        cell = [
            (r + 2 * i, c + 3 * j) if quadrants else (2 * r + i, 2 * c + j)
            for i in (0, 1)
            for j in (0, 1)
        ]
        four = torch.stack([weights[:, row, column] for row, column in cell]).softmax(0)
        same(y[:, r, c], (four * candidates[:, r, c].view(4, 4)).sum(0))


def test_wavelet_pooling_is_channel_by_channel() -> None:
    module, x = made("WaveletPool", in_channels=2), image(1, 2, 5, 4)
    y = module(x)
    assert y.shape == (1, 8, 2, 2)  # the last row is dropped
    same(y[:, 4], x[:, 1, :4].unflatten(1, (2, 2)).unflatten(3, (2, 2)).sum((2, 4)) / 2, 1e-6)


def test_averaged_halves_by_hand() -> None:
    module, x = made("ADown", in_channels=4, out_channels=6), image(1, 4, 7, 8)
    mean = (x[..., :-1, :-1] + x[..., 1:, :-1] + x[..., :-1, 1:] + x[..., 1:, 1:]) / 4
    pooled = F.max_pool2d(F.pad(mean[:, 2:], [1] * 4, value=-1e9), 3, 2)
    same(module(x), torch.cat([module.strided(mean[:, :2]), module.pooled(pooled)], 1))
    assert module(x).shape[-2:] == (3, 4)


@pytest.mark.parametrize("pool_first", [False, True])
def test_transition_of_two_branches(pool_first: bool) -> None:
    module = made("V7DownSampling", in_channels=4, out_channels=6, pool_first=pool_first)
    x = image(1, 4, 6, 8)
    pooled = module.pooled(x.unflatten(2, (3, 2)).unflatten(4, (4, 2)).amax((3, 5)))
    strided = module.strided(x)
    same(module(x), torch.cat([pooled, strided] if pool_first else [strided, pooled], 1))


def test_space_to_depth_then_convolution() -> None:
    module, x = made("SPDConv", in_channels=3, out_channels=5), image(1, 3, 4, 6)
    conv = F.conv2d(phases(x), module.conv.conv.weight, padding=1)
    same(module(x), F.silu(module.conv.norm(conv)))


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_haar_bands_one_after_another(size: tuple[int, int]) -> None:
    module, x = made("HWD", in_channels=2, out_channels=3), image(1, 2, *size)
    padded = F.pad(x, (0, size[1] % 2, 0, size[0] % 2))
    a, b, c, d = (padded[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
    bands = torch.cat([a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d], 1) / 2
    conv = module.mix.conv
    same(module(x), module.mix.norm(F.conv2d(bands, conv.weight, conv.bias)).relu(), 1e-6)


def test_robust_features_by_hand() -> None:
    module, x = made("DRFD", in_channels=3, out_channels=6), image(1, 3, 4, 6)
    cut = module.cut.mix
    first = cut.norm(F.conv2d(phases(x), cut.conv.weight, cut.conv.bias))
    u = F.conv2d(x, module.widen.weight, module.widen.bias, padding=1, groups=3)
    conv, _, norm = module.strided
    second = norm(F.gelu(F.conv2d(u, conv.weight, conv.bias, 2, 1, groups=6)))
    third = module.max.norm(F.max_pool2d(u, 2))
    fuse = module.fuse
    same(module(x), F.conv2d(torch.cat([first, second, third], 1), fuse.weight, fuse.bias))


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("ContextGuidedBlock_Down", {"out_channels": 12}, "12"),
        ("LAWDS", {"group": 16}, "10"),
        ("ADown", {"out_channels": 7}, "7"),
        ("V7DownSampling", {"out_channels": 7}, "7"),
        ("DRFD", {"out_channels": 16}, "16"),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MODULES.create(name, in_channels=10, **arguments)
