"""Parts of necks against their equations, and the FDPN neck as an encoder."""

from __future__ import annotations

import pytest
import scipy.fft
import torch
import torch.nn.functional as F

from detrkit.errors import ConfigError
from detrkit.models.encoders.fdpn import FDPN
from detrkit.modules.neck.fdpn import FocusFeature
from detrkit.modules.neck_module.gold_yolo import (
    InjectionMultiSum,
    PyramidPoolAgg,
    RepVGG,
    TopBasicLayer,
)
from detrkit.modules.neck_module.hs_fpn import HFP, SDP, cosine_basis, high_pass
from detrkit.modules.neck_module.hyper_ace import AdaptiveHypergraph, FullPADTunnel
from detrkit.modules.neck_module.hyper_compute import HyperComputeModule


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_hyperedges_are_balls_around_pixels() -> None:
    module = HyperComputeModule(4, threshold=2.5).eval()
    x = torch.randn(1, 4, 3, 3)
    pixels = x[0].flatten(1).T
    values = module.linear(pixels)
    balls = [[j for j in range(9) if (pixels[i] - pixels[j]).norm() < 2.5] for i in range(9)]
    assert any(1 < len(ball) < 9 for ball in balls)
    edges = torch.stack([values[ball].mean(0) for ball in balls])
    found = torch.stack([edges[ball].mean(0) for ball in balls])
    expected = F.silu(module.norm(x + found.T.reshape(1, 4, 3, 3)))
    assert torch.allclose(module(x), expected, atol=1e-6)


def test_alone_in_its_ball_a_pixel_hears_itself_only() -> None:
    module = HyperComputeModule(4, threshold=1e-6).eval()
    x = torch.randn(1, 4, 3, 3)
    own = module.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert torch.allclose(module(x), F.silu(module.norm(x + own)), atol=1e-6)


def test_membership_of_hyperedges_adds_up_over_the_pixels() -> None:
    module = AdaptiveHypergraph(32, num_hyperedges=3, context="both").eval()
    tokens = torch.randn(2, 12, 32)
    shares = module.membership(tokens)
    assert shares.shape == (2, 12, 3)
    assert torch.allclose(shares.sum(1), torch.ones(2, 3), atol=1e-5)
    context = torch.cat([tokens.mean(1), tokens.max(1).values], 1)
    prototypes = module.base + module.shift(context).view(2, 3, 32)
    # the mean over heads of their products is the whole product, divided by their number
    logits = torch.einsum("bnc,bmc->bnm", module.project(tokens), prototypes) / 2 / 16**0.5
    assert torch.allclose(shares, logits.softmax(1), atol=1e-6)
    with pytest.raises(ValueError, match="multiple of 16, got 24"):
        AdaptiveHypergraph(24)


def test_a_tunnel_starts_closed() -> None:
    x, y = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    assert torch.equal(FullPADTunnel([4, 4])([x, y]), x)
    with pytest.raises(ValueError, match="same width"):
        FullPADTunnel([4, 8])


def test_repvgg_with_its_identity_becomes_one_convolution() -> None:
    module, x = RepVGG(6).double().train(), torch.randn(4, 6, 5, 7).double()
    for _ in range(3):
        module(x)
    module.eval()
    expected = module(x)
    module.convert_to_deploy()
    module.convert_to_deploy()
    assert torch.allclose(module(x), expected, atol=1e-10)
    assert sum(p.numel() for p in module.parameters()) == 6 * 6 * 9 + 6


def test_injection_gates_only_where_it_enlarges() -> None:
    module = InjectionMultiSum([4, 10], 4, global_channels=[6, 4], part=1).eval()
    local, whole = torch.randn(1, 4, 8, 8), torch.randn(1, 10, 4, 4)
    chosen = whole[:, 6:]
    gate = F.interpolate(F.relu6(module.gate(chosen) + 3) / 6, (8, 8), mode="bilinear")
    embedded = F.interpolate(module.embed(chosen), (8, 8), mode="bilinear")
    expected = module.local(local) * gate + embedded
    assert torch.allclose(module([local, whole]), expected, atol=1e-6)
    small = torch.randn(1, 4, 2, 2)
    expected = module.local(small) * F.avg_pool2d(module.gate(chosen), 2)
    expected = expected + F.avg_pool2d(module.embed(chosen), 2)
    assert torch.allclose(module([small, whole]), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"part 2 of global_channels \[6, 4\]"):
        InjectionMultiSum([4, 10], global_channels=[6, 4], part=2)


def test_gathering_rounds_up() -> None:
    maps = [torch.randn(1, 2, 20, 12), torch.randn(1, 3, 10, 6), torch.randn(1, 4, 5, 3)]
    y = PyramidPoolAgg([2, 3, 4])(maps)
    assert y.shape == (1, 9, 3, 2)
    assert torch.allclose(y[:, 5:], F.adaptive_avg_pool2d(maps[2], (3, 2)))


def test_gathered_attention_has_no_scale() -> None:
    attention = TopBasicLayer(8, num_blocks=1, key_dim=4, num_heads=2).eval().blocks[0].attention
    x = torch.randn(1, 8, 2, 3)
    q, k, v = (to(x)[0].flatten(1) for to in (attention.to_q, attention.to_k, attention.to_v))
    heads = [
        v[8 * h : 8 * h + 8] @ torch.softmax(q[4 * h : 4 * h + 4].T @ k[4 * h : 4 * h + 4], 1).T
        for h in range(2)
    ]
    expected = attention.project(torch.cat(heads).reshape(1, 16, 2, 3))
    assert torch.allclose(attention(x), expected, atol=1e-5)


@pytest.mark.parametrize("length", [1, 5, 8])
def test_the_cosine_basis_is_scipys(length: int) -> None:
    basis = cosine_basis(length, torch.zeros(1, dtype=torch.float64))
    assert torch.allclose(basis @ basis.T, torch.eye(length).double(), atol=1e-12)
    x = torch.randn(length).double()
    expected = torch.from_numpy(scipy.fft.dct(x.numpy(), norm="ortho"))
    assert torch.allclose(basis @ x, expected, atol=1e-12)


def test_the_high_pass_zeroes_the_corner_of_the_spectrum() -> None:
    x = torch.randn(1, 2, 8, 12).double()
    spectrum = scipy.fft.dctn(x.numpy(), axes=(2, 3), norm="ortho")
    spectrum[..., :2, :6] = 0
    expected = torch.from_numpy(scipy.fft.idctn(spectrum, axes=(2, 3), norm="ortho"))
    assert torch.allclose(high_pass(x, (0.25, 0.5)), expected, atol=1e-10)
    assert high_pass(torch.ones(1, 1, 8, 8), (0.25, 0.25)).abs().max() < 1e-5


def test_sdp_attends_within_windows() -> None:
    module = SDP([32, 32], patch_size=[2, 3]).eval()
    low, high = torch.randn(1, 32, 4, 6), torch.randn(1, 32, 4, 6)
    q, k = module.to_q(low), module.to_k(high)
    expected = low.clone()
    for i in (0, 2):
        for j in (0, 3):
            a, b = (m[0, :, i : i + 2, j : j + 3].flatten(1) for m in (q, k))
            found = (torch.softmax(a.T @ b / 32**0.5, 1) @ b.T).T
            expected[0, :, i : i + 2, j : j + 3] += found.view(32, 2, 3)
    assert torch.allclose(module([low, high]), expected, atol=1e-5)
    with pytest.raises(ValueError, match="multiple of 32, got 40"):
        HFP(40)


def test_fdpn_is_an_encoder() -> None:
    maps = [torch.randn(1, c, s, 2 * s) for c, s in ((8, 16), (12, 8), (16, 4))]
    encoder = FDPN([8, 12, 16], hidden_dim=32, dim_feedforward=48, out_strides=[16, 32])
    assert (encoder.out_channels, encoder.out_strides) == ([32, 32], [16, 32])
    assert [tuple(y.shape) for y in encoder(maps)] == [(1, 32, 8, 16), (1, 32, 4, 8)]
    with pytest.raises(ConfigError, match=r"out_strides: \[8\] must be \[8, 16, 32\]"):
        FDPN([8, 12, 16], out_strides=[8])
    with pytest.raises(ConfigError, match="takes three maps"):
        FDPN([8, 12], [8, 16])
    with pytest.raises(ValueError, match="must be even, got 3"):
        FocusFeature([8, 6, 8])
