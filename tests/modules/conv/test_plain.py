"""Partial, gated, mixed and dynamic convolutions, against their equations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.registry import MODULES
from tests.modules.naive import image, made, same


def test_partial_convolution_passes_the_rest() -> None:
    module, x = made("Partial_conv3", in_channels=6, n_div=4), image(1, 6, 4, 5)
    y = module(x)
    same(y[:, :1], F.conv2d(x[:, :1], module.conv.weight, padding=1))
    assert torch.equal(y[:, 1:], x[:, 1:])


@pytest.mark.parametrize("stride", [1, 2])
def test_pinwheel_vanes_pixel_by_pixel(stride: int) -> None:
    module = made("PSConv", in_channels=2, out_channels=4, kernel_size=3, stride=stride)
    x = image(1, 2, 5, 6)
    vanes = []
    pads = [(3, 0, 1, 0), (0, 3, 0, 1), (0, 1, 3, 0), (1, 0, 0, 3)]
    for i, (left, right, top, bottom) in enumerate(pads):
        layer = module.across if i < 2 else module.down
        padded = torch.zeros(1, 2, 5 + top + bottom, 6 + left + right).double()
        padded[..., top : top + 5, left : left + 6] = x
        y = layer.norm(F.conv2d(padded, layer.conv.weight, stride=stride))
        assert y.shape[-2:] == (5 // stride + 1, 6 // stride + 1)
        vanes.append(F.silu(y))
    merge = module.merge
    same(module(x), F.silu(merge.norm(F.conv2d(torch.cat(vanes, 1), merge.conv.weight))))


def test_gated_convolution_by_hand() -> None:
    module, x = made("gConv", in_channels=4, kernel_size=5), image(1, 4, 5, 6)
    layer, n = module.layer, module.norm(x)
    mirrored = F.pad(layer.value(n), [2] * 4, mode="reflect")
    value = F.conv2d(mirrored, layer.spatial.weight, layer.spatial.bias, groups=4)
    same(module(x), x + layer.project(value * layer.gate(n).sigmoid()))


def test_a_mirrored_border_needs_pixels() -> None:
    with pytest.raises(ValueError, match="2x7"):
        MODULES.create("gConv", in_channels=4, kernel_size=5)(torch.randn(1, 4, 2, 7))


def test_bands_and_square_of_inception() -> None:
    module, x = made("InceptionDWConv2d", in_channels=9, branch_ratio=0.25), image(1, 9, 5, 6)
    y = module(x)
    assert torch.equal(y[:, :3], x[:, :3])
    for i, (part, padding) in enumerate(
        [(module.square, (1, 1)), (module.horizontal, (0, 5)), (module.vertical, (5, 0))]
    ):
        channels = slice(3 + 2 * i, 5 + 2 * i)
        expected = F.conv2d(x[:, channels], part.weight, part.bias, padding=padding, groups=2)
        same(y[:, channels], expected)


def test_spatial_reconstruction_by_hand() -> None:
    module, x = made("ScConv", in_channels=8).spatial, image(1, 8, 4, 5)
    gamma = module.norm.weight / module.norm.weight.sum()
    r = torch.sigmoid(module.norm(x) * gamma.view(1, 8, 1, 1))
    a, b = torch.where(r > 0.5, 1.0, r) * x, torch.where(r > 0.5, 0.0, r) * x
    same(module(x), torch.cat([a[:, :4] + b[:, 4:], a[:, 4:] + b[:, :4]], 1))


def test_channel_reconstruction_by_hand() -> None:
    module, x = made("ScConv", in_channels=8).channel, image(2, 8, 4, 5)
    up = F.conv2d(x[:, :4], module.squeeze_up.weight)
    low = F.conv2d(x[:, 4:], module.squeeze_low.weight)
    grouped = F.conv2d(up, module.group_wise.weight, module.group_wise.bias, padding=1, groups=2)
    rich = grouped + F.conv2d(up, module.point_wise.weight)
    both = torch.cat([rich, F.conv2d(low, module.cheap.weight), low], 1)
    weights = both.mean((2, 3)).softmax(1)[..., None, None]
    weighted = weights * both
    same(module(x), weighted[:, :8] + weighted[:, 8:])


def test_the_gate_of_reconstruction_learns() -> None:
    module = made("ScConv", in_channels=8).spatial
    module(image(1, 8, 4, 5)).square().sum().backward()
    assert module.norm.weight.grad.any()


def test_each_image_has_its_kernel() -> None:
    module = made("DynamicConv", in_channels=4, out_channels=6, kernel_size=3, groups=2)
    x = image(3, 4, 5, 6)
    y = module(x)
    for b in range(3):
        shares = torch.sigmoid(module.routing(x[b].mean((1, 2))))
        weight = sum(s * e.view(6, 2, 3, 3) for s, e in zip(shares, module.experts, strict=True))
        same(y[b : b + 1], F.conv2d(x[b : b + 1], weight, padding=1, groups=2))


def ensemble(kernel: Tensor) -> Tensor:
    """Mean of the four turns and of those of the mirror image."""
    turns = [torch.rot90(k, n, (2, 3)) for k in (kernel, kernel.flip(3)) for n in range(4)]
    return torch.stack(turns).mean(0)


def test_attention_by_convolution_by_hand() -> None:
    module, x = (
        made("ConvAttn", in_channels=8, partial_channels=4, kernel_size=5),
        image(2, 8, 6, 7),
    )
    same(module.symmetric(), ensemble(module.large))
    y = []
    for b in range(2):
        p = x[b : b + 1, :4]
        kernels = module.dynamic(F.gelu(module.squeeze(p.mean((2, 3), keepdim=True))))
        small = F.conv2d(p, kernels.view(4, 1, 3, 3), padding=1, groups=4)
        part = F.conv2d(p, ensemble(module.large), padding=2) + small
        y.append(module.mix(torch.cat([part, x[b : b + 1, 4:]], 1)))
    same(module(x), torch.cat(y))


def test_the_large_kernel_of_attention_learns() -> None:
    module = MODULES.create("ConvAttn", in_channels=8, kernel_size=3)
    module(torch.randn(1, 8, 5, 5)).square().sum().backward()
    assert module.large.grad.any()


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("Partial_conv3", {"n_div": 17}, "17"),
        ("PSConv", {"out_channels": 6}, "6"),
        ("gConv", {"kernel_size": 4}, "4"),
        ("InceptionDWConv2d", {"branch_ratio": 0.01}, r"0\.01"),
        ("InceptionDWConv2d", {"band_kernel_size": 10}, "10"),
        ("ScConv", {"group_num": 3}, "16"),
        ("ScConv", {"group_size": 8}, "8"),
        ("DynamicConv", {"kernel_size": 2}, "2"),
        ("ConvAttn", {"partial_channels": 17}, "17"),
        ("ConvAttn", {"kernel_size": 12}, "12"),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MODULES.create(name, in_channels=16, **arguments)
