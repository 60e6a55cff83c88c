"""What is said about attention is what the modules computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from detrkit.errors import UsageError
from detrkit.explain import attention
from detrkit.explain.attention import AttentionRecorder, Sampling, TokenAttention, rollout
from detrkit.explain.layers import network
from detrkit.explain.opened import open_picture
from detrkit.layers.attention import SelfAttention
from detrkit.layers.deformable import MSDeformableAttention
from detrkit.layers.rope import RotaryEmbedding2d
from detrkit.layers.vit import RotaryAttention
from detrkit.ops.deformable import deformable_attention
from tests.engine.bright import bright_runtime, picture
from tests.explain.detectors import FAMILIES, detector
from tests.explain.likeness import assert_like

PICTURE = picture((90, 120), (20, 30, 80, 70))


def softmaxes(seed: int, layers: int, heads: int, tokens: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(heads, tokens, tokens, generator=generator).softmax(-1) for _ in range(layers)
    ]


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))
@settings(max_examples=25)
def test_rollout(seed: int, layers: int, heads: int, tokens: int) -> None:
    weights = softmaxes(seed, layers, heads, tokens)
    found = rollout(weights)
    assert torch.allclose(found.sum(-1), torch.ones(tokens), atol=1e-5)
    assert (found >= 0).all()
    expected = np.eye(tokens)
    for layer in weights:
        expected = (0.5 * layer.numpy().mean(0) + 0.5 * np.eye(tokens)) @ expected
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rollout_follows_a_path() -> None:
    """Token 2 looks at 1 only, in a layer before which 1 looked at 0 only."""
    first, second = torch.eye(3)[None].clone(), torch.eye(3)[None].clone()
    first[0, 1] = torch.tensor([1.0, 0, 0])
    second[0, 2] = torch.tensor([0.0, 1, 0])
    assert torch.equal(rollout([first, second])[2], torch.tensor([0.25, 0.25, 0.5]))
    assert torch.equal(rollout([second, first])[2], torch.tensor([0, 0.5, 0.5]))


def test_attention_received_by_places() -> None:
    weights = torch.eye(7)[None].repeat(1, 1, 1)  # one token before a grid of 2 x 3
    weights[0, 1 + 4] = torch.eye(7)[1 + 0]  # the middle of the lower row looks at the corner
    tokens = TokenAttention("backbone", (weights,), (2, 3), prefix=1)
    centre = np.array([[0.4, 0.6, 0.6, 0.9]])
    expected = torch.zeros(2, 3)
    expected[0, 0] = expected[1, 1] = 0.5
    assert torch.equal(tokens.received(centre), expected)
    tiny = np.array([[0.51, 0.52, 0.52, 0.53]])  # between the centres: the token it lies in
    assert torch.equal(tokens.received(tiny), expected)
    everything = tokens.received()
    assert everything[0, 0] == pytest.approx(1.5 / 6)
    assert everything.sum() == pytest.approx(1)


@torch.no_grad()
def test_self_attention_is_reproduced() -> None:
    torch.manual_seed(0)
    module = SelfAttention(16, 4).eval()
    x, position = torch.randn(1, 24, 16), torch.randn(1, 24, 16)
    q, k, v = module.heads(x, position)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    again = module.out_proj((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(again, module(x, position), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_rotary_attention_is_reproduced() -> None:
    torch.manual_seed(0)
    module = RotaryAttention(16, 2).eval()
    turns = RotaryEmbedding2d(8)(4, 6, 1)
    x = torch.randn(1, 25, 16)
    q, k, v = module.heads(x, turns)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    again = module.proj((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(again, module(x, turns), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_sampled_is_what_the_decoder_read(name: str) -> None:
    """Locations and weights give each module's own output, bit for bit."""
    opened = detector(name)
    model = network(opened)
    image = open_picture(opened, PICTURE)
    outputs: list[tuple[Any, Tensor]] = []
    modules = [m for m in model.modules() if isinstance(m, MSDeformableAttention)]
    hooks = [
        m.register_forward_hook(lambda m, given, out: outputs.append((given, out))) for m in modules
    ]
    with torch.no_grad():
        plain = model(image.input)
        with AttentionRecorder(model).entered() as recorded:
            watched = model(image.input)
    for hook in hooks:
        hook.remove()
    assert all(torch.equal(plain[key], watched[key]) for key in ("pred_logits", "pred_boxes"))
    queries = np.arange(plain["pred_logits"].shape[1])
    layers = recorded.sampled(queries)
    assert len(layers) == len(modules) == len(outputs) // 2
    for module, layer, (came, out) in zip(modules, layers, outputs[len(modules) :], strict=True):
        assert torch.allclose(layer.weights.sum(-1), torch.ones(()), atol=1e-5)
        with torch.no_grad():
            again = deformable_attention(
                came[2],
                layer.locations.transpose(0, 1)[None],
                layer.weights.transpose(0, 1)[None],
                layer.points,
                layer.method,
            )
            assert torch.equal(module.output_proj(again), out)


@pytest.mark.parametrize("method", ["default", "discrete"])
@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_a_splat_reads_what_the_query_reads(method: Any, seed: int) -> None:
    """Summed over the cells, splat times map is the heads' mean of what the points read."""
    generator = torch.Generator().manual_seed(seed)
    shapes, points, heads = ((5, 7), (3, 4)), (3, 2), 4
    locations = torch.rand(2, heads, 5, 2, generator=generator) * 1.4 - 0.2
    weights = torch.rand(2, heads, 5, generator=generator).softmax(-1)
    sampling = Sampling(locations, weights, points, shapes, method)
    maps = [torch.rand(1, 1, *shape, generator=generator) for shape in shapes]
    for detection in range(2):
        read = deformable_attention(
            [m.expand(heads, -1, -1, -1) for m in maps],
            locations[detection][None, :, None],
            weights[detection][None, :, None],
            points,
            method,
        )
        splat = sampling.splat(detection)
        summed = sum((s * m[0, 0]).sum() for s, m in zip(splat, maps, strict=True))
        assert torch.allclose(torch.as_tensor(summed), read.mean(), atol=1e-5)
        assert sum(float(s.sum()) for s in splat) <= 1 + 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_of_every_family(name: str, tmp_path: Path) -> None:
    opened = detector(name)
    found = attention(opened, PICTURE, conf=0, max_det=3)
    expected = opened.predict(PICTURE, conf=0, max_det=3)
    np.testing.assert_allclose(found.found.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)
    assert len(found.layers) >= 1
    for number in range(len(found.layers)):
        assert found.density(number, 2).shape == (90, 120)
    arrays = np.load(found.save_numbers(tmp_path / "a.npz"))
    layers, detections, heads, points, _ = arrays["locations"].shape
    assert (layers, detections) == (len(found.layers), 3)
    assert arrays["weights"].shape == (layers, detections, heads, points)
    assert arrays["levels"].shape == (points,)
    levels = found.to_dict()["detections"][0]["levels"]
    assert [sum(layer) for layer in levels] == pytest.approx([1] * layers, abs=1e-4)


def test_density_is_attention_per_area() -> None:
    """All of it is found again over a picture that fills the input."""
    opened = detector("dfine")
    found = attention(opened, picture((64, 96), (20, 30, 80, 70)), conf=0, max_det=2)
    inside = sum(float(part.sum()) for part in found.layers[0].splat(0))
    assert found.density(0, 0).mean() == pytest.approx(inside, rel=0.1)


def test_parts_without_attention() -> None:
    model = network(detector("deimv2_hgnet"))
    image = open_picture(detector("deimv2_hgnet"), PICTURE)
    with torch.no_grad(), AttentionRecorder(model).entered() as recorded:
        model(image.input)
    assert recorded.tokens("encoder", (64, 96)) is None
    assert recorded.tokens("backbone", (64, 96)) is None
    with pytest.raises(UsageError, match="no deformable attention"):
        attention(type(detector("dfine"))(bright_runtime()), PICTURE)


@pytest.mark.parametrize(
    ("name", "part", "grid", "prefix"),
    [("dfine", "encoder", (4, 6), 0), ("deimv2_vit", "backbone", (4, 6), 1)],
)
def test_attention_among_places(name: str, part: str, grid: tuple[int, int], prefix: int) -> None:
    model = network(detector(name))
    image = open_picture(detector(name), PICTURE)
    with torch.no_grad(), AttentionRecorder(model).entered() as recorded:
        model(image.input)
    tokens = recorded.tokens(part, (64, 96))
    assert tokens is not None
    assert (tokens.grid, tokens.prefix) == (grid, prefix)
    for weights in tokens.weights:
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)


def test_the_figure(tmp_path: Path) -> None:
    found = attention(detector("rtdetrv2"), PICTURE, conf=0, max_det=2)
    assert_like(found.figure("page", detections=2), "attention", tmp_path)
    assert found.save(tmp_path / "one.svg", detections=1, width="column").stat().st_size
    nothing = attention(detector("rtdetrv2"), PICTURE, conf=1)
    assert nothing.save(tmp_path / "none.png").stat().st_size


def test_hooks_are_removed() -> None:
    model: nn.Module = network(detector("dfine"))
    attention(detector("dfine"), PICTURE, conf=0)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
