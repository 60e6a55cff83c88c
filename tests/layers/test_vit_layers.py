"""RoPE and the parts of a vision transformer against their equations."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.layers.rope import RotaryEmbedding2d, rotate
from detrkit.layers.vit import (
    Block,
    FeedForward,
    GatedFeedForward,
    LayerScale,
    QKVWithoutKeyBias,
    RotaryAttention,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def naive_turn(vector: list[float], y: float, x: float, base: float = 100.0) -> list[float]:
    """One head's vector at (y, x) in [-1, 1], turned as complex numbers (i, i + c/2)."""
    c = len(vector)
    out = [0.0] * c
    for i in range(c // 2):
        place, frequency = (y, i) if i < c // 4 else (x, i - c // 4)
        angle = 2 * math.pi * place / base ** (2 * frequency / (c // 2))
        turned = complex(vector[i], vector[i + c // 2]) * complex(math.cos(angle), math.sin(angle))
        out[i], out[i + c // 2] = turned.real, turned.imag
    return out


def test_rotation_is_the_equation() -> None:
    h, w, c, prefix = 2, 3, 8, 2
    tokens = torch.randn(1, prefix + h * w, 2, c)
    found = rotate(tokens, *RotaryEmbedding2d(c)(h, w, prefix))
    assert torch.equal(found[:, :prefix], tokens[:, :prefix])  # no place, no turn
    for head in range(2):
        for row in range(h):
            for column in range(w):
                i = prefix + row * w + column
                y, x = (2 * row + 1) / h - 1, (2 * column + 1) / w - 1
                expected = naive_turn(tokens[0, i, head].tolist(), y, x)
                assert found[0, i, head].tolist() == pytest.approx(expected, abs=1e-5)


@given(
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    step=st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
@settings(deadline=None, max_examples=25)
def test_only_differences_of_places_count(h: int, w: int, step: tuple[int, int]) -> None:
    """The score of a query and a key is the same wherever the pair stands."""
    height, width = h + step[0], w + step[1]
    turns = RotaryEmbedding2d(8)(height, width)
    q, k = torch.randn(2, 8).expand(height * width, 2, 8).unsqueeze(2).unbind(1)
    q, k = rotate(q[None], *turns)[0, :, 0], rotate(k[None], *turns)[0, :, 0]
    scores = (q @ k.T).reshape(height, width, height, width)
    start = scores[0, 0, h - 1, w - 1]
    assert torch.allclose(scores[step[0], step[1], -1, -1], start, atol=1e-4)
    assert torch.allclose(q.norm(dim=-1), q[0].norm().expand(len(q)), atol=1e-5)


def test_angles_are_kept_per_size_and_follow_loaded_periods() -> None:
    rope = RotaryEmbedding2d(8)
    first = rope(2, 3)
    assert rope(2, 3)[0] is first[0]
    assert rope(3, 2)[0].shape == (6, 1, 4)
    assert copy.deepcopy(rope)(2, 3)[0] is not first[0]
    rope.load_state_dict({"periods": rope.periods * 2})
    assert not torch.allclose(rope(2, 3)[1], first[1])


def test_rescaling_is_for_training_reproducible_and_within_its_range() -> None:
    rope = RotaryEmbedding2d(4, rescale=2.0)
    fixed = rope.eval()(1, 8)[1]
    assert torch.equal(rope(1, 8)[1], fixed)
    rope.train()
    torch.manual_seed(1)
    first = rope(1, 8)[1]
    assert not torch.allclose(first, fixed)
    assert not torch.allclose(rope(1, 8)[1], first)  # drawn anew at each call
    torch.manual_seed(1)
    assert torch.equal(rope(1, 8)[1], first)

    rope.periods.fill_(100.0)  # no angle above a quarter turn: the factor can be read off
    angle = 2 * math.pi * (1 - 1 / 8) / 100
    drawn = torch.stack([rope(1, 8)[1][-1, 0, -1].asin() / angle for _ in range(400)])
    assert 0.5 <= drawn.min() < 0.6
    assert 1.7 < drawn.max() <= 2.0
    assert abs(drawn.log().mean()) < 0.07  # five deviations: 5 · ln 2 · 2 / √12 / √400 = 0.1
    plain = RotaryEmbedding2d(4).train()
    assert torch.equal(plain(1, 8)[1], plain.eval()(1, 8)[1])


def test_heads_that_cannot_be_turned() -> None:
    with pytest.raises(ConfigError, match="multiple of 4 channels, got 6"):
        RotaryEmbedding2d(6)
    with pytest.raises(ConfigError, match="embed_dim 10 is not divisible by num_heads 4"):
        RotaryAttention(10, 4)


def naive_attention(layer: RotaryAttention, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Head by head with the softmax written out."""
    batch, n, dim = x.shape
    q, k, v = layer.qkv(x).split(dim, dim=-1)
    c = dim // layer.num_heads
    outs = []
    for head in range(layer.num_heads):
        mine = slice(head * c, (head + 1) * c)
        q_h, k_h = (rotate(t[:, :, None, mine], *turns)[:, :, 0] for t in (q, k))
        weights = (q_h @ k_h.transpose(1, 2) / math.sqrt(c)).softmax(-1)
        outs.append(weights @ v[:, :, mine])
    assert outs[0].shape == (batch, n, c)
    return layer.proj(torch.cat(outs, dim=-1))


@pytest.mark.parametrize("key_bias", [True, False])
def test_attention_is_the_equation(key_bias: bool) -> None:
    layer = RotaryAttention(16, 2, key_bias)
    nn.init.normal_(layer.qkv.bias)
    x, turns = torch.randn(2, 7, 16), RotaryEmbedding2d(8)(2, 3, 1)
    assert torch.allclose(layer(x, turns), naive_attention(layer, x, turns), atol=1e-6)


def test_keys_have_no_bias() -> None:
    layer = QKVWithoutKeyBias(4)
    nn.init.normal_(layer.bias)
    q, k, v = layer(torch.zeros(1, 4)).chunk(3, dim=-1)
    assert torch.equal(k, torch.zeros(1, 4))
    assert torch.equal(torch.cat([q, v], -1)[0], layer.bias[[0, 1, 2, 3, 8, 9, 10, 11]])
    assert set(layer.state_dict()) == {"weight", "bias", "bias_mask"}
    layer(torch.randn(2, 4)).sum().backward()
    assert torch.equal(layer.bias.grad[4:8], torch.zeros(4))


def test_block_is_the_equation() -> None:
    block = Block(8, 2, 12, gated=True, key_bias=False, layer_scale=1e-5)
    assert torch.equal(block.ls1.gamma, torch.full((8,), 1e-5))
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x, turns = torch.randn(2, 4, 8), RotaryEmbedding2d(4)(2, 2)
    normal = F.layer_norm(x, (8,), block.norm1.weight, block.norm1.bias, 1e-6)
    middle = x + block.ls1.gamma * naive_attention(block.attn, normal, turns)
    normal = F.layer_norm(middle, (8,), block.norm2.weight, block.norm2.bias, 1e-6)
    mlp = block.mlp
    gate = mlp.w1(normal)
    expected = middle + block.ls2.gamma * mlp.w3(gate * gate.sigmoid() * mlp.w2(normal))
    assert torch.allclose(block(x, turns), expected, rtol=1e-4, atol=1e-4)


def test_feed_forward_names_and_gelu() -> None:
    plain, gated = FeedForward(4, 6), GatedFeedForward(4, 6)
    assert [n for n, _ in plain.named_children()] == ["fc1", "fc2"]
    assert [n for n, _ in gated.named_children()] == ["w1", "w2", "w3"]
    x = torch.randn(3, 4)
    hidden = plain.fc1(x)
    exact = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    assert torch.allclose(plain(x), plain.fc2(exact), atol=1e-6)


def test_layer_scale_under_autocast_keeps_the_sum_in_float32() -> None:
    block = Block(8, 2, 16, layer_scale=0.1)
    x, turns = torch.randn(1, 4, 8), RotaryEmbedding2d(4)(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = block(x, turns)
    assert found.dtype == torch.float32
    assert torch.allclose(found, block(x, turns), atol=0.05)
    assert LayerScale(3, 0.5)(torch.ones(3), torch.ones(3)).tolist() == [1.5] * 3
