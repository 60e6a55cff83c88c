"""Stems against their equations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from detrkit.modules.stem.log_stem import gaussian_kernel, log_kernel
from detrkit.registry import MODULES
from tests.modules.downsample.test_downsample import phases
from tests.modules.naive import image, made, same


def test_robust_stem_by_hand() -> None:
    module, x = made("SRFD", out_channels=8), image(1, 3, 8, 12)
    x = F.conv2d(x, module.first.weight, module.first.bias, padding=3)
    wide, down, norm = module.conv_2
    conv = F.conv2d(x, wide.weight, wide.bias, padding=1, groups=2)
    conv = norm(F.conv2d(conv, down.weight, down.bias, 2, 1, groups=4))
    cut = module.cut_2.mix
    cut = cut.norm(F.conv2d(phases(x), cut.conv.weight, cut.conv.bias))
    r = module.fuse_2(torch.cat([conv, cut], 1))
    m = F.conv2d(r, module.widen.weight, module.widen.bias, padding=1, groups=4)
    down, norm = module.conv_4
    conv = norm(F.conv2d(m, down.weight, down.bias, 2, 1, groups=8))
    cut = module.cut_4.mix
    cut = cut.norm(F.conv2d(phases(r), cut.conv.weight, cut.conv.bias))
    largest = module.max_4.norm(F.max_pool2d(m, 2))
    same(module(image(1, 3, 8, 12)), module.fuse_4(torch.cat([conv, cut, largest], 1)))


def test_edge_and_gaussian_stem_by_hand() -> None:
    module, picture = made("LoGStem", out_channels=8), image(1, 3, 9, 14)

    def filtered(part: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        conv = part.filter.conv
        assert conv.bias is None
        y = F.conv2d(x, conv.weight, padding=conv.weight.shape[-1] // 2, groups=x.shape[1])
        return x + part.filter.norm(y).relu()

    x = module.first(picture)
    x = module.edges[1](filtered(module.edges[0], x))
    x = module.down(x)
    g = module.gaussian
    assert [c.conv.bias is None for c in g.extra] == [False, True, False]
    assert [type(c.act).__name__ for c in g.extra] == ["ReLU", "ReLU", "Identity"]
    x = g.norm(x + g.extra(filtered(g.smooth, x)))
    last = module.last
    x = last.smooth[1](filtered(last.smooth[0], last.widen(x)))
    conv, _, norm = last.strided
    strided = norm(F.conv2d(x, conv.weight, conv.bias, 2, 1, groups=8).relu())
    pooled = last.norm(F.max_pool2d(x, 3, 2, 1))
    y = last.fuse(torch.cat([strided, pooled], 1))
    same(module(picture), y)
    assert y.shape == (1, 8, 3, 4)


def test_filters_by_hand() -> None:
    total = sum(math.exp(-(i * i + j * j) / 0.5) for i in range(-4, 5) for j in range(-4, 5))
    assert float(gaussian_kernel(9, 0.5)[4, 5]) == pytest.approx(math.exp(-2) / total, rel=1e-5)
    kernel = log_kernel(7, 1.0)
    assert float(kernel.sum()) == pytest.approx(0, abs=1e-6)
    assert float(kernel.abs().sum()) == pytest.approx(1)
    assert torch.equal(kernel, kernel.T)
    assert kernel[3, 3] < 0 < kernel[3, 5]  # a dark dot within a bright ring


def test_untrained_the_stem_has_its_filters() -> None:
    module = MODULES.create("LoGStem", out_channels=8)
    assert torch.equal(module.edges[0].filter.conv.weight[1, 0], log_kernel(7, 1.0))
    assert torch.equal(module.gaussian.smooth.filter.conv.weight[1, 0], gaussian_kernel(9, 0.5))


@pytest.mark.parametrize("name", ["SRFD", "LoGStem"])
def test_wrong_arguments_are_named(name: str) -> None:
    with pytest.raises(ValueError, match="30"):
        MODULES.create(name, out_channels=30)
