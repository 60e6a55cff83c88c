"""Context-mixing dynamic kernels against naive transcriptions."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from detrkit.modules.featurefusion.gdsafusion import aggregated
from detrkit.registry import MODULES
from tests.modules.naive import image, made, per_pixel, same, sigmoid, softmax

H, W = 7, 8


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def start(place, length, side):
    """First pixel of a window that stays within the map."""
    return min(max(place - side // 2, 0), length - side)


def test_windows_move_inwards():
    values, weights = image(1, 4, 5, 6), image(1, 2, 9, 5, 6)
    expected = torch.zeros_like(values)
    for c, i, j in itertools.product(range(4), range(5), range(6)):
        top, left = start(i, 5, 3), start(j, 6, 3)
        window = values[0, c, top : top + 3, left : left + 3].flatten()
        expected[0, c, i, j] = (window * weights[0, c // 2, :, i, j]).sum()
    same(aggregated(values, weights, 3), expected)


def test_kernels_of_pixels():
    kernels = made("GDSAFusion", in_channels=[8, 4], num_heads=2).kernels
    x, context = image(1, 8, H, W), image(1, 4, H, W, seed=3)
    small, large = kernels(x, context)
    q = kernels.query(x)[0] * 4**-0.5
    k = kernels.key(F.adaptive_avg_pool2d(context, 7))[0].flatten(1)
    for head, i, j in itertools.product(range(2), (0, 3, 6), (0, 4, 7)):
        own = slice(2 * head, 2 * head + 2)
        logits = kernels.taps.weight[..., 0, 0] @ (k[own].T @ q[own, i, j]) + kernels.taps.bias
        for ours, part, side, table in (
            (small, logits[:25], 5, kernels.position[0]),
            (large, logits[25:], 7, kernels.position[1]),
        ):
            a, b = i - start(i, H, side), j - start(j, W, side)
            part = part.clone()
            for down, right in itertools.product(range(side), range(side)):
                bias = table[head, side - 1 - a + down, side - 1 - b + right]
                part[side * down + right] += bias
            same(ours[0, head, :, i, j], softmax(part, 0))


def test_the_order_of_its_parts():
    module = made("GDSAFusion", in_channels=[8, 4], num_heads=2)
    maps = [image(1, 8, H, W), image(1, 4, H, W, seed=3)]
    joined = torch.cat(maps, 1)
    s = joined + module.mixed.conv(joined)
    f = module.norm(s)
    v = module.value(f)
    small, large = module.kernels(f[:, :8], f[:, 8:])
    z = torch.cat([aggregated(v[:, :4], small, 5), aggregated(v[:, 4:], large, 7)], 1)
    z = module.aggregate(z) + module.local(v)
    _, first, _, last, _ = module.excite.gate
    means = z.mean((2, 3))[0][:, None, None]
    z = z * sigmoid(per_pixel(last, F.gelu(per_pixel(first, means))))
    z = module.project(module.gate(v) * z)

    def scaled(layer, t):
        return layer.weight[None, :, 0] * t + layer.bias[:, None, None]

    z = scaled(module.shortcut, s) + z
    z = z + module.position.conv(z)
    same(module(maps), scaled(module.mlp_shortcut, z) + module.mlp(z))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": [8]}, "context"),
        ({"in_channels": [6, 8]}, "2 heads"),
        ({"in_channels": [8, 8], "smk_size": 4}, "4 and 7"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MODULES.create("GDSAFusion", **arguments)


def test_a_small_map_is_refused():
    module = MODULES.create("GDSAFusion", in_channels=[8, 4])
    with pytest.raises(ValueError, match="7"):
        module([torch.randn(1, 8, 6, 9), torch.randn(1, 4, 6, 9)])
