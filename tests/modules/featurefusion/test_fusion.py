"""Fusion modules against their equations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detrkit.modules.block.rephms import RepHMS
from detrkit.modules.featurefusion.cgfm import ContextGuideFusionModule
from detrkit.modules.featurefusion.csfcn import ContextCalibration, SpatialCalibration, moved
from detrkit.modules.featurefusion.dpcf import DPCF
from detrkit.modules.featurefusion.mfm import MFM
from detrkit.modules.featurefusion.mpca import MultiScalePCA, eca_kernel
from detrkit.modules.featurefusion.msam import MSAMP4
from detrkit.modules.featurefusion.msga import MultiScaleGatedAttn
from detrkit.modules.featurefusion.pst import PST, PyramidAttention
from detrkit.modules.featurefusion.wfu import WFU


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_cgfm_with_an_open_gate_adds_squares() -> None:
    module = ContextGuideFusionModule([8, 8], 16, reduction=4)
    nn.init.zeros_(module.gate[2].weight)  # type: ignore[arg-type]
    x, y = torch.randn(2, 8, 3, 4), torch.randn(2, 8, 3, 4)  # the gate is 1/2 everywhere
    expected = torch.cat([x + y * y / 2, y + x * x / 2], 1)
    assert torch.allclose(module([x, y]), expected, atol=1e-6)
    with pytest.raises(ValueError, match="reduction 99 leaves nothing of 16 channels"):
        ContextGuideFusionModule([8, 8], reduction=99)


def test_mfm_averages_with_weights_that_add_up_to_one() -> None:
    module = MFM([8, 8, 8])
    x = torch.randn(2, 8, 3, 4)
    assert torch.allclose(module([x, x, x]), x, atol=1e-6)
    nn.init.zeros_(module.mlp[2].weight)  # type: ignore[arg-type]
    maps = [torch.randn(2, 8, 3, 4) for _ in range(3)]
    assert torch.allclose(module(maps), sum(maps) / 3, atol=1e-6)


def test_masag_by_hand() -> None:
    module = MultiScaleGatedAttn([4, 4]).eval()
    x, g = torch.randn(1, 4, 5, 5), torch.randn(1, 4, 5, 5)
    pooled = torch.stack([g.mean(1), g.max(1).values], 1)
    context = module.norm(module.local_context(x) + module.global_context(pooled))
    a, b = torch.softmax(module.select(context), 1).split(1, 1)
    xs, gs = x * (1 + a), g * (1 + b)
    crossed = torch.sigmoid(gs) * xs * torch.sigmoid(xs) * gs
    assert torch.allclose(module([x, g]), module.project(module.gate(crossed) * x), atol=1e-6)


@pytest.mark.parametrize(("channels", "size"), [(16, 3), (64, 3), (128, 5), (256, 5), (512, 5)])
def test_kernels_over_channels_grow_with_the_width(channels: int, size: int) -> None:
    assert eca_kernel(channels) == size


def test_mpca_weighs_channels() -> None:
    module = MultiScalePCA([8, 12])
    x, y = torch.randn(1, 8, 6, 4), torch.randn(1, 12, 3, 2)
    a = torch.cat(
        [module.first(x.mean((2, 3))[:, None]), module.second(y.mean((2, 3))[:, None])], 2
    )
    gate = torch.sigmoid(module.both(a))[0, 0]
    expected = x * gate[:8, None, None] + module.move(y * gate[8:, None, None])
    assert torch.allclose(module([x, y]), expected, atol=1e-6)


def test_dpcf_goes_from_one_map_to_the_other() -> None:
    module = DPCF([8, 8]).eval()
    low, high = torch.randn(1, 8, 3, 2), torch.randn(1, 8, 6, 5)  # not square
    for value, expected in ((-99.0, high), (99.0, F.interpolate(low, (6, 5), mode="bilinear", align_corners=True))):  # fmt: skip  # noqa: E501
        with torch.no_grad():
            module.balance.fill_(value)
        assert torch.allclose(module([low, high]), module.fuse(expected), atol=1e-5)


def test_context_calibration_starts_as_attention_alone() -> None:
    module = ContextCalibration(16, key_channels=4).eval()
    x = torch.randn(1, 16, 8, 4)
    y = module.enter(x)
    pooled = torch.cat([F.adaptive_avg_pool2d(y, (g, max(1, round(g / 2)))).flatten(2)
                        for g in (6, 3, 2, 1)], 2)  # fmt: skip
    assert pooled.shape[2] == 6 * 3 + 3 * 2 + 2 * 1 + 1
    q, k, v = module.query(y).flatten(2)[0], module.key(pooled)[0], module.value(pooled)[0]
    context = torch.stack([v @ torch.softmax(q[:, i] @ k, 0) for i in range(32)], 1)
    assert torch.allclose(module(x)[0], y[0] + context.view(16, 8, 4), atol=1e-5)


def test_sampling_moves_groups_by_their_own_offsets() -> None:
    x = torch.randn(1, 4, 6, 7)
    offsets = torch.zeros(1, 4, 6, 7)
    assert torch.allclose(moved(x, offsets), x, atol=1e-5)
    offsets[:, 2] = 2 * 7 / 6  # one pixel to the right is 2 / (W - 1) of the grid
    shifted = moved(x, offsets)
    assert torch.allclose(shifted[:, :2], x[:, :2], atol=1e-5)
    assert torch.allclose(shifted[:, 2:, :, :-1], x[:, 2:, :, 1:], atol=1e-4)
    with pytest.raises(ValueError, match="out_channels must be even, got 7"):
        SpatialCalibration([8, 8], 7)


def test_haar_bands_come_together_again() -> None:
    module = WFU([6, 8])
    x = torch.randn(2, 6, 8, 10)
    bands = F.conv2d(x, module.haar / 4, stride=2, groups=6)
    assert torch.allclose(F.conv_transpose2d(bands, module.haar, stride=2, groups=6), x, atol=1e-6)
    assert torch.allclose(bands[:, ::4], F.avg_pool2d(x, 2), atol=1e-6)
    with pytest.raises(ValueError, match="multiples of 2, got 7x10"):
        module([x[:, :, 1:], torch.randn(2, 8, 4, 5)])


def test_pst_attends_to_coarse_tokens_and_then_to_their_children() -> None:
    attention = PyramidAttention(32, top_k=0).eval()
    x, u = torch.randn(1, 32, 4, 6), torch.randn(1, 32, 2, 3)
    q = attention.q(x)[0].flatten(1).T
    k, v = attention.kv(u)[0].flatten(1).T.split(32, 1)
    coarse = torch.softmax(q @ k.T / 32**0.5, 1) @ v
    position = attention.position(v.T.reshape(1, 32, 2, 3))
    position = F.interpolate(position, (4, 6), mode="bilinear")
    expected = attention.project(coarse.T.reshape(1, 32, 4, 6) + position)
    assert torch.allclose(attention(x, u), expected, atol=1e-5)

    attention.top_k = 6  # all tokens: fine attention is attention to every pixel
    kf, vf = attention.kv(x)[0].flatten(1).T.split(32, 1)
    fine = torch.softmax(q @ kf.T / 32**0.5, 1) @ vf
    both = torch.cat([coarse, fine], 1).T[None]
    gate = torch.sigmoid(attention.gate(both))[0].T
    mixed = gate * fine + (1 - gate) * coarse
    expected = attention.project(mixed.T.reshape(1, 32, 4, 6) + position)
    assert torch.allclose(attention(x, u), expected, atol=1e-5)


def test_pst_is_the_same_every_time_and_names_wrong_sizes() -> None:
    module = PST([16, 24], 64, top_k=2).eval()
    maps = [torch.randn(1, 16, 4, 6), torch.randn(1, 24, 2, 3)]
    assert torch.equal(module(maps), module(maps))
    with pytest.raises(ValueError, match="twice as large as the second, got 4x6 and 2x2"):
        module([maps[0], torch.randn(1, 24, 2, 2)])
    with pytest.raises(ValueError, match="multiple of 32, got 24"):
        PST([16, 24], 48)


def test_msam_attends_channels_row_by_row() -> None:
    module = MSAMP4([4, 4, 4, 4], 4).eval()
    pair = torch.randn(1, 8, 3, 5)
    q, k, v = module.to_qkv(pair)[0].split(2, 0)
    rows = [torch.softmax(q[:, i] @ k[:, i].T, 1) @ v[:, i] for i in range(3)]
    expected = torch.stack(rows).reshape(2, 3, 5)  # read anew, as published
    assert torch.allclose(module.attend(pair)[0], expected, atol=1e-6)
    sizes = [(16, 16), (8, 8), (4, 4), (3, 3)]
    with pytest.raises(ValueError, match="half as large as the one before, got 16x16"):
        module([torch.randn(1, 4, *size) for size in sizes])


def test_rephms_passes_each_slice_on_to_the_next() -> None:
    module = RepHMS(8, 8, num_slices=3, depth=2, unit_expansion=1).eval()
    x = torch.randn(1, 8, 5, 5)
    s0, s1, s2 = module.enter(x).split(4, 1)
    (u00, u01), (u10, u11) = module.units
    a = u00(s1 + s0)
    b = u01(a)
    c = u10(s2 + a)
    d = u11(c + b)
    expected = module.leave(torch.cat([s0, a, b, c, d], 1))
    assert torch.allclose(module(x), expected, atol=1e-5)
    with pytest.raises(ValueError, match="2 slices and depth 1 at least, got 1 and 1"):
        RepHMS(8, num_slices=1)
