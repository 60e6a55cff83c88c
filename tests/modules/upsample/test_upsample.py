"""Up-sampling against its equations."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from detrkit.registry import MODULES
from tests.modules.naive import image, made, same
from tests.ops.test_deform_conv import bilinear


def test_efficient_up_convolution_by_hand() -> None:
    module, x = made("EUCB", in_channels=4, out_channels=6, kernel_size=5), image(1, 4, 3, 4)
    big = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    spatial = F.conv2d(big, module.spatial.conv.weight, padding=2, groups=4)
    same(module(x), module.mix(module.spatial.norm(spatial).relu()))


def test_shifts_go_to_four_sides_around_the_border() -> None:
    module, x = made("EUCB_SC", in_channels=8), image(1, 8, 3, 4)
    inner = module.spatial(module.upsample(x))
    shifted = torch.empty_like(inner)
    for r, c in itertools.product(range(6), range(8)):
        shifted[:, 0:2, (r + 1) % 6, c] = inner[:, 0:2, r, c]
        shifted[:, 2:4, (r - 1) % 6, c] = inner[:, 2:4, r, c]
        shifted[:, 4:6, r, (c + 1) % 8] = inner[:, 4:6, r, c]
        shifted[:, 6:8, r, (c - 1) % 8] = inner[:, 6:8, r, c]
    same(module(x), module.mix(shifted))


def test_unpooling_inverts_pooling() -> None:
    x = image(2, 3, 6, 8)
    pool, unpool = made("WaveletPool", in_channels=3), made("WaveletUnPool", in_channels=12)
    same(unpool(pool(x)), x, 1e-6)


@pytest.mark.parametrize(("scale", "side", "groups"), [(2, 5, 1), (3, 3, 2)])
def test_reassembly_pixel_by_pixel(scale: int, side: int, groups: int) -> None:
    module = made(
        "CARAFE",
        in_channels=4,
        scale=scale,
        up_kernel=side,
        up_group=groups,
        compressed_channels=3,
    )
    x = image(1, 4, 4, 3)
    with torch.no_grad():
        logits = F.pixel_shuffle(module.encode(module.compress(x)), scale)[0]
        y, half = module(x)[0], side // 2
        for r, c, g in itertools.product(range(4 * scale), range(3 * scale), range(groups)):
            mask = logits[g * side**2 : (g + 1) * side**2, r, c].softmax(0)
            channels = slice(4 // groups * g, 4 // groups * (g + 1))
            expected = torch.zeros(4 // groups).double()
            for i, j in itertools.product(range(side), range(side)):
                row, column = r // scale + i - half, c // scale + j - half
                if 0 <= row < 4 and 0 <= column < 3:
                    expected += mask[i * side + j] * x[0, channels, row, column]
            same(y[channels, r, c], expected)


@pytest.mark.parametrize("dyscope", [False, True])
@pytest.mark.parametrize("style", ["lp", "pl"])
def test_dynamic_samples_pixel_by_pixel(style: str, dyscope: bool) -> None:
    module = made("DySample", in_channels=8, groups=2, style=style, dyscope=dyscope)
    x = image(1, 8, 4, 3)
    with torch.no_grad():
        source = F.pixel_shuffle(x, 2) if style == "pl" else x
        offset = module.offset(source)
        offset = offset * (module.scope(source).sigmoid() * 0.5 if dyscope else 0.25)
        if style == "pl":
            offset = F.pixel_unshuffle(offset, 2)
        y = module(x)[0]
        for r, c, g, i, j in itertools.product(range(4), range(3), *[range(2)] * 3):
            channel = g * 4 + i * 2 + j
            row = r - 0.25 + i / 2 + float(offset[0, 8 + channel, r, c])
            column = c - 0.25 + j / 2 + float(offset[0, channel, r, c])
            row, column = min(max(row, 0), 3), min(max(column, 0), 2)
            expected = bilinear(x[0, 4 * g : 4 * g + 4], row, column)
            same(y[4 * g : 4 * g + 4, 2 * r + i, 2 * c + j], expected)


@pytest.mark.parametrize("scale", [2, 3])
def test_untrained_dynamic_samples_are_bilinear(scale: int) -> None:
    module, x = MODULES.create("DySample", in_channels=8, scale=scale), torch.randn(1, 8, 5, 4)
    with torch.no_grad():
        module.offset.weight.zero_()
        same(module(x), F.interpolate(x, scale_factor=scale, mode="bilinear"), 1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("EUCB", {"kernel_size": 2}, "2"),
        ("EUCB_SC", {}, "10"),
        ("WaveletUnPool", {}, "10"),
        ("CARAFE", {"up_kernel": 4}, "4"),
        ("CARAFE", {"up_group": 3}, "3"),
        ("DySample", {"groups": 4}, "10"),
        ("DySample", {"groups": 2, "style": "pl"}, "10"),
        ("DySample", {"groups": 2, "style": "xx"}, "xx"),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MODULES.create(name, in_channels=10, **arguments)
