"""Attention among channels against naive transcriptions of the equations."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from detrkit.registry import MODULES
from tests.modules.naive import image, made, per_pixel, same, sigmoid, softmax


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def unit(x):
    """Rows of length one."""
    return x / (x**2).sum(-1, keepdim=True).sqrt()


def channel_attention(q, k, v, temperature):
    """softmax(t cos) v; maps (C, H, W), a temperature for each head."""
    heads = len(temperature)
    parts = []
    for head, (a, b, c) in enumerate(
        zip(*(t.flatten(1).chunk(heads) for t in (q, k, v)), strict=True)
    ):
        parts.append(softmax(unit(a) @ unit(b).T * temperature[head].item(), 1) @ c)
    return torch.cat(parts).reshape(v.shape)


def test_dilated_gcsa():
    module, x = made("DilatedGCSA", in_channels=4, num_heads=2), image(1, 4, 5, 6)
    pointwise, around = module.qkv
    t = F.conv2d(per_pixel(pointwise, x[0])[None], around.weight, padding=2, dilation=2, groups=12)[
        0
    ]
    out = channel_attention(*t.chunk(3), module.attention.temperature)
    same(module(x)[0], per_pixel(module.project_out, out))


def test_gsa_has_no_softmax_and_shuffles_heads():
    module, x = made("GSA", in_channels=6, num_heads=2), image(1, 6, 4, 3)
    q, k, v = (t.flatten(1) for t in module.qkv(x)[0].chunk(3))
    out = torch.empty_like(v)
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        a = (unit(q[part]) @ unit(k[part]).T * module.temperature.item()).clamp(min=0)
        out[head::2] = a @ v[part]  # channel (head, j) becomes (j, head)
    same(module(x)[0], per_pixel(module.project_out, out.reshape(6, 4, 3)))


@pytest.mark.parametrize("side", [2, 3, 4])
def test_rsa_attends_among_channels_of_a_window(side):
    module, x = made("RSA", in_channels=3, window_size=side), image(1, 3, 2 * side, 2 * side)
    shift = side // 2
    rolled = torch.roll(x, (-shift, -shift), (2, 3))
    q, k, v = module.qkv(rolled)[0].chunk(3)
    out = torch.empty_like(v)
    for i, j in itertools.product(range(0, 2 * side, side), repeat=2):
        window = (slice(None), slice(i, i + side), slice(j, j + side))
        a, b, c = (t[window].flatten(1) for t in (q, k, v))  # (C, pixels)
        a, b = (t / t.norm(dim=0) for t in (a, b))
        weights = (a @ b.T * module.temperature.item()).clamp(min=0)
        out[window] = (c.T @ weights).T.reshape(3, side, side)
    out = torch.roll(out, (shift, shift), (1, 2))
    same(module(x)[0], per_pixel(module.project_out, out))


def test_fssa_frequency_branch():
    module, x = made("FSSA", in_channels=16, num_heads=2).frequency, image(1, 16, 4, 3)
    spectrum = torch.fft.fft2(x[0])
    parts = []
    for head, part in enumerate(spectrum.flatten(1).chunk(2)):
        normed = part / (part.abs() ** 2).sum(1, keepdim=True).sqrt()
        scores = torch.einsum("cn,dn->cd", normed, normed) * module.temperature[head].item()
        weights = torch.complex(softmax(scores.real, 1), softmax(scores.imag, 1))
        parts.append((weights @ part).reshape(8, 4, 3))
    attended = torch.fft.ifft2(torch.cat(parts)).abs()
    gated = torch.fft.ifft2(module.gate(spectrum.real[None])[0] * spectrum).abs()
    same(module(x)[0], per_pixel(module.project_out, torch.cat([attended, gated])))


def test_fssa_sums_both_branches():
    module, x = made("FSSA", in_channels=16, num_heads=2), image(2, 16, 4, 3)
    spatial = module.spatial
    q, k, v = spatial.q(x), spatial.k(x), spatial.v(x)
    attended = torch.stack(
        [channel_attention(*t, spatial.attention.temperature) for t in zip(q, k, v, strict=True)]
    )
    expected = spatial.project_out(torch.cat([attended, spatial.local(x)], dim=1))
    same(module(x), module.frequency(x) + expected)


def test_cta_branches_gate_each_other():
    module, x = made("CTA", in_channels=12, num_heads=3), image(1, 12, 4, 5)
    q, k, v = per_pixel(module.qkv, x[0]).chunk(3)
    a = channel_attention(q, k, v, module.attention.temperature)[None]
    c = module.local(v[None])
    cp, sp = module.channel_projection, module.spatial_projection
    t = cp.narrow(a)
    m = cp.widen(t * cp.of_mean(t.mean((2, 3), keepdim=True)) * cp.around(t))
    a = a + m
    gate, value = sp.narrow(c).chunk(2, dim=1)
    a, c = a * sigmoid(sp.widen(F.gelu(gate) * value)), c * sigmoid(m.mean((2, 3), keepdim=True))
    same(module(x)[0], per_pixel(module.proj, (a + c)[0]))


@pytest.mark.parametrize("batch", [1, 2])
def test_cpia_keeps_the_largest_scores(batch):
    module, x = made("CPIA_SA", in_channels=32, num_heads=2), image(batch, 32, 4, 3)
    for b in range(batch):
        y, z = per_pixel(module.project_in, x[b]).split(16)
        t = module.spatial.widen(y[None])[0]
        t = F.gelu(t * softmax(t.mean((1, 2)), 0)[:, None, None])
        detail = per_pixel(module.spatial.narrow[1], t)
        channel = module.channel
        q, k, v = (s.flatten(1) for s in channel.qkv(z[None])[0].chunk(3))
        kept = max(1, int(8 * channel.gate(z[None]).mean()))
        assert 1 < kept < 8
        parts = []
        for head in range(2):
            part = slice(8 * head, 8 * head + 8)
            scores = unit(q[part]) @ unit(k[part]).T * channel.temperature[head]
            for row in scores:
                order = row.argsort(descending=True)
                row[order[kept:]] = -torch.inf
            parts.append(softmax(scores, 1) @ v[part])
        attended = torch.cat(parts) * sum(w.item() for w in channel.weights)
        attended = attended.reshape(z.shape)
        of_channel = module.channel_gate(attended.mean((1, 2))[None, :, None, None])[0]
        of_place = module.spatial_gate(detail[None])[0]
        both = torch.cat([attended * of_place, detail * of_channel])
        out = per_pixel(module.project_out, both)
        spectrum = torch.fft.fft2(out)
        scale, shift = module.spectrum.weight.flatten(), module.spectrum.bias
        real = spectrum.real * scale[:32, None, None] + shift[:32, None, None]
        imaginary = spectrum.imag * scale[32:, None, None] + shift[32:, None, None]
        same(module(x)[b], torch.fft.ifft2(torch.complex(real, imaginary)).real, 1e-8)


def test_cpia_keeps_one_score_where_the_gate_is_closed():
    module, x = made("CPIA_SA", in_channels=32, num_heads=2), image(1, 32, 4, 3)
    module.channel.gate[2].bias.fill_(-100)
    assert module(x).isfinite().all()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("GSA", {"in_channels": 12}, "must divide 12 channels, got 8"),
        ("DilatedGCSA", {"in_channels": 12}, "must divide 12 channels, got 8"),
        ("FSSA", {"in_channels": 24}, "multiple of 16 channels, got 24"),
        ("CPIA_SA", {"in_channels": 24}, "multiple of 16 channels, got 24"),
        ("CTA", {"in_channels": 8}, "at least 12 channels, got 8"),
    ],
)
def test_wrong_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        MODULES.create(name, **arguments)
