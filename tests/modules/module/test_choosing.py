"""Blocks that decide by window: CAMixer, and the frequency-aware block's four shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from detrkit.modules.module.camixer import CAMixer, warped
from detrkit.modules.module.fat_block import DecomposedWindowAttention, FATBlock


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_keys_come_from_beside_the_pixel() -> None:
    x = torch.randn(1, 3, 5, 6)
    offsets = torch.zeros(1, 2, 5, 6)
    assert torch.allclose(warped(x, offsets), x, atol=1e-5)
    offsets[:, 0] = 1  # from the right neighbour; the last column repeats
    moved = warped(x, offsets)
    assert torch.allclose(moved[..., :-1], x[..., 1:], atol=1e-5)
    assert torch.allclose(moved[..., -1], x[..., -1], atol=1e-5)


def test_chosen_windows_attend_and_others_are_gated() -> None:
    module = CAMixer(8, window_size=2, ratio=0.5).eval()
    x = torch.randn(1, 8, 4, 4)
    v = module.to_v(x)
    offsets, by_channel, by_place, scores = module.predictor(module.condition(x, v))
    share = module.chosen(scores)[0, :, 0]
    wanted = (scores[0, :, 0] >= scores[0, :, 1]).float().mean()
    assert share.sum() == int(4 * wanted)
    out = v * by_place
    key = x + warped(x, offsets)
    for number, (i, j) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        if share[number]:
            q, k, values = (m[0, :, i : i + 2, j : j + 2].flatten(1).T for m in (x, key, v))
            found = torch.softmax(module.to_q(q) @ module.to_k(k).T, 1) @ values
            out[0, :, i : i + 2, j : j + 2] = found.T.reshape(8, 2, 2)
    expected = module.project(out + by_channel * module.mix(out))
    assert torch.allclose(module(x), expected, atol=1e-5)


def test_the_best_windows_are_kept() -> None:
    module = CAMixer(8, ratio=0.25).eval()
    first = torch.tensor([[0.9, 0.6, 0.8, 0.7]])
    scores = torch.stack([first, 1 - first], -1)  # all four want to: 4 · 1 · 2 · 0.25 are kept
    assert module.chosen(scores)[0, :, 0].tolist() == [1, 0, 1, 0]
    module.ratio = 1
    assert module.chosen(scores).all()
    with pytest.raises(ValueError, match="at least 8, got 4"):
        CAMixer(4)


def test_groups_attend_in_windows_of_their_own_shape() -> None:
    module = DecomposedWindowAttention(16, num_heads=4, window_size=4, shifted=True).eval()
    with torch.no_grad():
        for bias in module.biases:
            bias.table.normal_()
    x = torch.randn(1, 16, 8, 8)
    qkv = module.qkv(x.permute(0, 2, 3, 1))[0]  # (H, W, 3C)
    found = torch.zeros(8, 8, 16)
    shapes = [(8, 8), (2, 2), (2, 8), (8, 2)]
    for group, (h, w) in enumerate(shapes):
        q, k, v = (qkv[..., 16 * n + 4 * group :][..., :4].roll((-(h // 2), -(w // 2)), (0, 1))
                   for n in range(3))  # fmt: skip
        own = torch.zeros(8, 8, 4)
        table = module.biases[group].table[:, 0].view(2 * h - 1, 2 * w - 1)
        places = [(a, b) for a in range(h) for b in range(w)]
        bias = torch.stack([torch.stack([table[a - c + h - 1, b - d + w - 1] for c, d in places])
                            for a, b in places])  # fmt: skip
        for i in range(0, 8, h):
            for j in range(0, 8, w):
                part = [m[i : i + h, j : j + w].reshape(-1, 4) for m in (q, k, v)]
                weights = torch.softmax(part[0] @ part[1].T / 2 + bias, 1)
                own[i : i + h, j : j + w] = (weights @ part[2]).view(h, w, 4)
        found[..., 4 * group : 4 * group + 4] = own.roll((h // 2, w // 2), (0, 1))
    expected = F.linear(found, module.proj.weight, module.proj.bias).permute(2, 0, 1)
    assert torch.allclose(module(x)[0], expected, atol=1e-5)


def test_wrong_arguments_of_the_frequency_aware_block() -> None:
    with pytest.raises(ValueError, match="multiple of 4 that divides 16, got 6"):
        FATBlock(16, num_heads=6)
    with pytest.raises(ValueError, match="window_size must be a multiple of 4, got 6"):
        FATBlock(16, num_heads=4, window_size=6)
    with pytest.raises(ValueError, match="multiples of 24, got 16x24"):
        FATBlock(16, 4, window_size=4, tile_size=6)(torch.randn(1, 16, 16, 24))
