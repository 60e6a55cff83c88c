"""Stages against their equations, and what is published of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.modules.block.csp import C3, Bottleneck, C2f, C3k2
from detrkit.modules.block.manet import MANet
from detrkit.modules.block.mona import Mona
from detrkit.modules.block.rgcspelan import RGCSPELAN


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def unit(layer: nn.Module, x: Tensor) -> Tensor:
    """Convolution, norm with running statistics, SiLU: spelled out."""
    conv, norm = layer.conv, layer.norm
    y = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    shape = (1, -1, 1, 1)
    y = (y - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + norm.eps).sqrt()
    y = y * norm.weight.view(shape) + norm.bias.view(shape)
    return y * y.sigmoid()


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 8, 7, 5)


def test_c3(x: Tensor) -> None:
    module = C3(8, 12, num_blocks=1).eval()
    inside = unit(module.enter, x)
    block = module.blocks[0]
    inside = inside + unit(block.conv2, unit(block.conv1, inside))
    expected = unit(module.fuse, torch.cat([inside, unit(module.bypass, x)], 1))
    assert torch.allclose(module(x), expected, atol=1e-5)
    assert block.conv1.conv.kernel_size == (1, 1)


def test_c2f(x: Tensor) -> None:
    module = C2f(8, 12, num_blocks=2).eval()
    y = unit(module.split, x)
    y0, y1 = y[:, :6], y[:, 6:]
    y2 = unit(module.blocks[0].conv2, unit(module.blocks[0].conv1, y1))
    y3 = unit(module.blocks[1].conv2, unit(module.blocks[1].conv1, y2))
    expected = unit(module.fuse, torch.cat([y0, y1, y2, y3], 1))
    assert torch.allclose(module(x), expected, atol=1e-5)


def test_c3k2_holds_bottlenecks_or_c3_stages() -> None:
    plain, deep = C3k2(16, num_blocks=2), C3k2(16, c3k=True)
    assert [type(block) for block in plain.blocks] == [Bottleneck] * 2
    assert [m.conv1.conv.out_channels for m in plain.blocks] == [4, 4]
    assert len(deep.blocks[0].blocks) == 2
    assert deep.blocks[0].blocks[0].conv1.conv.out_channels == 4  # half of half, expansion 1


@pytest.mark.parametrize("kind", [C3, C2f, C3k2, MANet])
def test_any_module_that_keeps_its_width_goes_inside(kind: type, x: Tensor) -> None:
    module = kind(8, inner={"type": "Conv", "kernel_size": 3})
    assert module(x).shape == x.shape
    with pytest.raises(ConfigError, match=rf"{kind.__name__}\.inner: unknown component `Cnv`"):
        kind(8, inner="Cnv")


def test_manet(x: Tensor) -> None:
    module = MANet(8, 12, separable_expansion=2, kernel_size=5).eval()
    y = unit(module.split, x)
    wide = y
    for layer in module.separable:
        wide = unit(layer, wide)
    block = module.blocks[0]
    maps = [unit(module.straight, y), wide, y[:, :6], y[:, 6:]]
    maps.append(unit(block.conv2, unit(block.conv1, maps[-1])))
    assert module.separable[1].conv.weight.shape == (24, 1, 5, 5)
    assert torch.allclose(module(x), unit(module.fuse, torch.cat(maps, 1)), atol=1e-5)


def test_rgcspelan_has_the_known_number_of_parameters() -> None:
    module = RGCSPELAN(64)
    assert count(module) == 13920
    for layer in list(module.modules()):
        if type(layer).__name__ == "RepVGGBlock":
            layer.convert_to_deploy()
    # the convolutions of one branch keep their norms; the fused one has a bias
    assert count(module) == 13920 - (32 * 16 + 4 * 16) + 16


def test_mona_begins_as_an_adapter_of_the_plain_input(x: Tensor) -> None:
    module = Mona(8, hidden_channels=4).eval()
    assert module.gamma.unique().item() == pytest.approx(1e-6)
    with torch.no_grad():
        module.gamma.zero_()
        down = module.down(x)
        mean = sum(layer(down) for layer in module.depthwise) / 3
        mixed = down + mean
        expected = x + module.up(F.gelu(mixed + module.mix(mixed)))
        assert torch.allclose(module(x), expected, atol=1e-6)
