"""Shared layers against PyTorch's own or a naive transcription."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from detrkit.errors import ConfigError
from detrkit.layers.activations import get_activation
from detrkit.layers.affine import LearnableAffine
from detrkit.layers.attention import SelfAttention, attend
from detrkit.layers.conv import ConvNormAct, RepVGGBlock
from detrkit.layers.deformable import MSDeformableAttention
from detrkit.layers.fused import FusedConv2d, FusedLinear, use_onednn
from detrkit.layers.logits import bias_for_probability, inverse_sigmoid
from detrkit.layers.mlp import SwiGLUFFN
from detrkit.layers.norm import FrozenBatchNorm2d, RMSNorm, freeze_batch_norm
from detrkit.layers.position import sincos_2d
from detrkit.layers.size_cache import SizeCache
from detrkit.models.backbones.hgnetv2 import ARCHITECTURES, ConvBNAct, HGNetv2
from detrkit.models.decoders.query_selection import make_anchors
from detrkit.ops import onednn
from detrkit.ops.deformable import deformable_attention


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def shaken(module: nn.Module) -> nn.Module:
    """Statistics and affine parameters away from their start values."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, std=0.3)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
            nn.init.normal_(m.weight)
            nn.init.normal_(m.bias)
    return module


@pytest.mark.parametrize("masked", [False, True])
def test_self_attention_is_pytorchs(masked: bool) -> None:
    ours, theirs = SelfAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    nn.init.normal_(ours.in_proj_bias)
    theirs.load_state_dict(ours.state_dict())
    x, position = torch.randn(2, 7, 16), torch.randn(1, 7, 16)
    blocked = torch.eye(7, dtype=torch.bool) if masked else None
    expected, _ = theirs(x + position, x + position, x, attn_mask=blocked)
    found = ours(x, position, None if blocked is None else ~blocked)
    assert torch.allclose(found, expected, atol=1e-6)
    expected, _ = theirs(x, x, x)
    assert torch.allclose(ours(x), expected, atol=1e-6)


def naive_sample(value: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Bilinear sample of (c, h, w) at pixel coordinates, zero outside."""
    c, h, w = value.shape
    out = torch.zeros(c)
    x0, y0 = int(x // 1), int(y // 1)
    for j, i in ((y0, x0), (y0, x0 + 1), (y0 + 1, x0), (y0 + 1, x0 + 1)):
        if 0 <= j < h and 0 <= i < w:
            out += value[:, j, i] * (1 - abs(x - i)) * (1 - abs(y - j))
    return out


@pytest.mark.parametrize("method", ["default", "discrete"])
def test_deformable_attention_is_the_equation(method: str) -> None:
    batch, heads, c, queries, points = 2, 2, 3, 4, [2, 1]
    sizes = [(4, 6), (2, 3)]
    values = [torch.randn(batch * heads, c, h, w) for h, w in sizes]
    locations = torch.rand(batch, heads, queries, 3, 2) * 1.2 - 0.1
    weights = torch.rand(batch, heads, queries, 3).softmax(-1)
    out = deformable_attention(values, locations, weights, points, method)  # type: ignore[arg-type]
    assert out.shape == (batch, queries, heads * c)
    for b in range(batch):
        for m in range(heads):
            for q in range(queries):
                total = torch.zeros(c)
                for p in range(3):
                    level = 0 if p < 2 else 1
                    h, w = sizes[level]
                    value = values[level][b * heads + m]
                    x, y = (locations[b, m, q, p] * torch.tensor([w, h])).tolist()
                    if method == "default":
                        sample = naive_sample(value, x - 0.5, y - 0.5)
                    else:
                        column = min(max(int(x + 0.5), 0), w - 1)
                        sample = value[:, min(max(int(y + 0.5), 0), h - 1), column]
                    total += weights[b, m, q, p] * sample
                assert torch.allclose(out[b, q, m * c : (m + 1) * c], total, atol=1e-5)


def test_points_start_inside_the_reference_box() -> None:
    layer = MSDeformableAttention(16, 4, 2, [3, 2])
    offsets = layer.sampling_offsets(torch.randn(1, 1, 16)).view(4, 5, 2)
    reach = offsets * layer.num_points_scale[:, None] * layer.offset_scale
    assert reach.abs().max().item() == pytest.approx(0.5)  # half a side: the box's edge
    assert torch.allclose(offsets[:, 1], 2 * offsets[:, 0])


def test_deformable_arguments() -> None:
    with pytest.raises(ValueError, match="one entry for 3 levels"):
        MSDeformableAttention(16, 4, 3, [1, 2])
    with pytest.raises(ValueError, match="discrete"):
        MSDeformableAttention(16, 4, 2, 1, method="nearest")  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_projected_values_are_a_linear_layers(layout: torch.memory_format) -> None:
    layer = MSDeformableAttention(16, 4, 2, 3, project=True)
    nn.init.normal_(layer.value_proj.bias)
    maps = [torch.randn(2, 16, h, w).contiguous(memory_format=layout) for h, w in ((4, 6), (2, 3))]
    for feature, found in zip(maps, layer.values(maps), strict=True):
        plain = layer.value_proj(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (B, C, h, w)
        assert torch.allclose(found, plain.reshape(8, 4, *feature.shape[2:]), atol=1e-6)


def test_rms_norm_is_the_equation() -> None:
    layer = RMSNorm(6, eps=0.1)
    nn.init.normal_(layer.scale)
    x = torch.randn(3, 6)
    expected = x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * layer.scale
    assert torch.allclose(layer(x), expected, atol=1e-6)
    half = RMSNorm(6).half()
    assert half(1e3 * torch.ones(6).half()).tolist() == [1] * 6  # its square is no float16
    assert list(layer.state_dict()) == ["scale"]


def test_swiglu_is_the_equation() -> None:
    layer = SwiGLUFFN(4, 6, 3)
    for bias in (layer.w12.bias, layer.w3.bias):
        assert not bias.any()
        nn.init.normal_(bias)
    x = torch.randn(2, 5, 4)
    w1, w2 = layer.w12.weight.split(6)
    b1, b2 = layer.w12.bias.split(6)
    gate = F.linear(x, w1, b1)
    hidden = gate * gate.sigmoid() * F.linear(x, w2, b2)
    assert torch.allclose(layer(x), layer.w3(hidden), atol=1e-6)


@torch.no_grad()
def test_frozen_norm_is_a_norm_in_evaluation() -> None:
    net = shaken(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).eval()
    x = torch.randn(2, 3, 8, 8)
    expected = net(x)
    freeze_batch_norm(net)
    assert isinstance(net[1], FrozenBatchNorm2d)
    assert torch.allclose(net.train()(x), expected, atol=1e-6)
    counted = {**net.state_dict(), "1.num_batches_tracked": torch.tensor(3)}
    net.load_state_dict(counted)  # checkpoints of ordinary norms fit
    assert not list(net[1].parameters())


@torch.no_grad()
@pytest.mark.parametrize(
    "block",
    [
        lambda: ConvNormAct(4, 6, 3, 2, groups=2, act="silu"),
        lambda: ConvNormAct(4, 6, 1, bias=True),
        lambda: RepVGGBlock(4, 6, act="silu"),
    ],
)
def test_fusing_changes_nothing(block) -> None:
    module = shaken(block()).eval()
    x = torch.randn(2, 4, 9, 7)
    expected = module(x)
    count = len(module.state_dict())
    module.convert_to_deploy()
    module.convert_to_deploy()  # again is harmless
    assert len(module.state_dict()) == 2 < count
    assert torch.allclose(module(x), expected, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("sliced", [False, True])
def test_learnable_affine_has_the_plain_gradient(layout: torch.memory_format, sliced: bool) -> None:
    layer = LearnableAffine(1.5, -0.3)
    x = torch.randn(2, 3, 5, 4).contiguous(memory_format=layout).requires_grad_()
    wide = torch.randn(2, 7, 5, 4).contiguous(memory_format=layout)
    grad = wide[:, 2:5] if sliced else wide[:, :3].contiguous()
    layer(x).backward(grad)
    scale, bias = (p.detach().clone().requires_grad_() for p in (layer.scale, layer.bias))
    plain = x.detach().clone().requires_grad_()
    expected = scale * plain + bias
    expected.backward(grad)
    assert torch.allclose(layer(x), expected)
    for found, parameter in ((x, plain), (layer.scale, scale), (layer.bias, bias)):
        assert found.grad.shape == parameter.grad.shape
        assert torch.allclose(found.grad, parameter.grad, atol=1e-5)
    layer.requires_grad_(False)
    assert not layer(x.detach()).requires_grad
    with torch.no_grad():
        assert torch.allclose(layer(x), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_learnable_affine_keeps_the_precision_of_autocast(layout: torch.memory_format) -> None:
    layer = LearnableAffine(1.5, -0.3)
    x = torch.randn(2, 3, 5, 4).bfloat16().contiguous(memory_format=layout).requires_grad_()
    grad = torch.randn(2, 3, 5, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    out.backward(grad)
    assert out.dtype == x.grad.dtype == torch.bfloat16
    assert layer.scale.grad.dtype == layer.bias.grad.dtype == torch.float32
    assert torch.allclose(out.float(), 1.5 * x.float() - 0.3, atol=0.02, rtol=0.01)
    assert torch.allclose(x.grad.float(), 1.5 * grad.float(), atol=0.02, rtol=0.01)
    assert torch.allclose(layer.scale.grad, (grad.float() * x.float()).sum()[None], rtol=0.02)
    assert torch.allclose(layer.bias.grad, grad.float().sum()[None], rtol=0.02)
    with torch.no_grad():
        assert torch.equal(layer(x), out)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_bf16_is_the_fused_one(masked: bool) -> None:
    q, k, v = (torch.randn(2, 3, 7, 4).bfloat16().requires_grad_() for _ in range(3))
    allowed = torch.ones(7, 7, dtype=torch.bool).tril() if masked else None
    grad = torch.randn(2, 3, 7, 4)
    found = attend(q, k, v, allowed)
    found.backward(grad.bfloat16())
    plain = [t.detach().float().requires_grad_() for t in (q, k, v)]
    expected = F.scaled_dot_product_attention(*plain, attn_mask=allowed)
    expected.backward(grad)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), expected, atol=0.03)
    for ours, theirs in zip((q, k, v), plain, strict=True):
        assert torch.allclose(ours.grad.float(), theirs.grad, atol=0.05)


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-4, 1 - 1e-4))
def test_inverse_sigmoid_inverts(p: float) -> None:
    assert inverse_sigmoid(torch.tensor(p)).sigmoid().item() == pytest.approx(p, abs=1e-5)
    bias = bias_for_probability(p)
    assert torch.tensor(bias).sigmoid().item() == pytest.approx(p, abs=1e-5)


def test_inverse_sigmoid_is_finite_everywhere() -> None:
    assert inverse_sigmoid(torch.tensor([-1.0, 0.0, 1.0, 2.0])).isfinite().all()


def test_anchors() -> None:
    anchors, valid = make_anchors([(4, 5), (2, 3)])
    assert anchors.shape == (1, 26, 4)
    boxes = anchors.sigmoid()[0]
    assert valid.all()
    assert torch.allclose(boxes[0], torch.tensor([0.1, 0.125, 0.05, 0.05]))
    assert torch.allclose(boxes[7], torch.tensor([0.5, 0.375, 0.05, 0.05]))  # row 1, column 2
    assert torch.allclose(boxes[20], torch.tensor([1 / 6, 0.25, 0.1, 0.1]))
    anchors, valid = make_anchors([(80, 80)])
    assert not valid[0, 0]
    assert anchors[0, 0].isinf().all()


def test_position_embedding_lists_x_first() -> None:
    table = sincos_2d(2, 3, 8)[0]
    assert table.shape == (6, 8)
    # the second entry is x 0, y 1, though features list x 1, y 0 there
    assert torch.allclose(table[1, :2], torch.zeros(2))
    assert table[1, 4].item() == pytest.approx(torch.tensor(1.0).sin().item())
    with pytest.raises(ValueError, match="divisible by 4"):
        sincos_2d(2, 2, 6)


def test_size_cache_keeps_the_last_and_travels_empty() -> None:
    cache, built = SizeCache(limit=2), []

    def get(key: int) -> torch.Tensor:
        return cache.get(key, lambda: built.append(key) or torch.tensor(key))

    for key in (1, 2, 1, 3, 1, 2):
        assert get(key).item() == key
    assert built == [1, 2, 3, 2]  # 2 left when 3 came, 1 stayed because it was used
    assert len(cache) == 2
    assert len(copy.deepcopy(cache)) == len(pickle.loads(pickle.dumps(cache))) == 0
    with torch.inference_mode():
        assert not get(7).is_inference()


def test_activations() -> None:
    assert isinstance(get_activation("SiLU"), nn.SiLU)
    assert isinstance(get_activation(None), nn.Identity)
    layer = nn.ELU()
    assert get_activation(layer) is layer
    with pytest.raises(ConfigError, match="did you mean `relu`"):
        get_activation("relo")


@pytest.mark.parametrize("name", ["B0", "B1", "B2", "B3"])
@torch.no_grad()
def test_hgnet_maps(name: str) -> None:
    net = HGNetv2(name, return_idx=[0, 2, 3]).eval()
    maps = net(torch.rand(1, 3, 64, 96))
    assert [m.shape[1] for m in maps] == net.out_channels
    expected = [(64 // s, 96 // s) for s in net.out_strides]
    assert [tuple(m.shape[2:]) for m in maps] == expected
    assert net.out_strides == [4, 16, 32]


def test_hgnet_freezing() -> None:
    def trainable(**settings) -> set[str]:
        net = HGNetv2("B0", **settings)
        return {
            n.split(".")[0] + "." + n.split(".")[1]
            for n, p in net.named_parameters()
            if p.requires_grad
        }

    everything = trainable(freeze_at=-1, freeze_norm=False)
    assert {"stem.stem1", "stages.0", "stages.3"} <= everything
    assert trainable() == {"stages.0", "stages.1", "stages.2", "stages.3"}
    assert trainable(freeze_stem_only=False, freeze_at=1) == {"stages.2", "stages.3"}


def test_hgnet_never_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.hub, "load_state_dict_from_url", lambda *a, **k: pytest.fail("download")
    )
    net = HGNetv2("B4", pretrained=True)
    assert net.pretrained is True
    assert net.pretrained_url is not None
    assert net.pretrained_url.endswith("PPHGNetV2_B4_stage1.pth")


def test_hgnet_arguments() -> None:
    sizes = ("Atto", "Femto", "Pico", "L", "X", "H", *(f"B{i}" for i in range(7)))
    assert sorted(ARCHITECTURES) == sorted(sizes)
    with pytest.raises(ConfigError, match="did you mean `B0`"):
        HGNetv2("b0")
    with pytest.raises(ConfigError, match="return_idx"):
        HGNetv2("B0", return_idx=[1, 4])


def test_stem_pads_right_and_below() -> None:
    """The 2×2 kernels see zeros beyond the last row and column only."""
    stem = HGNetv2("B0", freeze_norm=False, freeze_at=-1).stem.eval()
    x = torch.rand(1, 3, 8, 8)
    assert stem(x).shape[2:] == (2, 2)
    with torch.no_grad():  # pools in another way
        without_gradient = stem(x)
    assert torch.allclose(without_gradient, stem(x))
    assert stem(torch.rand(1, 3, 9, 7)).shape[2:] == (3, 2)


@pytest.fixture
def fused_layers() -> None:
    if not onednn.available():
        pytest.skip("this PyTorch has no oneDNN")


@torch.no_grad()
@pytest.mark.usefixtures("fused_layers")
@pytest.mark.parametrize("act", ["relu", "silu", "gelu", None])
@pytest.mark.parametrize("groups", [1, 4])
def test_fused_convolutions_answer_the_same(act: str | None, groups: int) -> None:
    layer = nn.Sequential(
        ConvNormAct(4, 8, 3, stride=2, groups=groups, act=act),
        nn.Conv2d(8, 4, 1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding="same"),
    ).eval()
    layer[0].convert_to_deploy()
    fused = copy.deepcopy(layer)
    use_onednn(fused)
    kinds = [type(module) for module in fused.modules()]
    assert kinds.count(FusedConv2d) == 2  # "same" stays
    assert fused.state_dict().keys() == layer.state_dict().keys()
    x = torch.randn(2, 4, 9, 7)
    for image in (x, x.contiguous(memory_format=torch.channels_last), x.double(), x[:0]):
        plain, ours = layer.to(image.dtype), fused.to(image.dtype)
        assert torch.allclose(ours(image), plain(image), atol=1e-5)
    fused, layer = fused.float(), layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert fused(x).dtype == torch.bfloat16
    for copied in (pickle.loads(pickle.dumps(fused)), copy.deepcopy(fused)):
        assert torch.allclose(copied(x), layer(x), atol=1e-5)
    for model in (fused, layer):  # new weights, the same memory
        for parameter in model.parameters():
            parameter.mul_(2)
    assert torch.allclose(fused(x), layer(x), atol=1e-4)
    with torch.enable_grad():  # no gradient is lost in silence
        free = x.clone().requires_grad_()
        fused(free).sum().backward()
        assert free.grad is not None


@torch.no_grad()
@pytest.mark.usefixtures("fused_layers")
def test_kernels_of_a_few_shapes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that alternate in size pack nothing anew, and no more than a few are kept."""
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    fused = copy.deepcopy(layer)
    use_onednn(fused)
    packed: list[int] = []
    pack = onednn.packed_kernel

    def counted(conv: nn.Conv2d, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        packed.append(shape[0])
        return pack(conv, shape, dtype)

    monkeypatch.setattr(onednn, "packed_kernel", counted)
    batches = {count: torch.rand(count, 3, 6, 5) for count in range(1, 7)}
    for count in (1, 2, 1, 3, 2, 1, 4, 3, 1):
        assert torch.allclose(fused(batches[count]), layer(batches[count]), atol=1e-6)
    assert packed == [1, 2, 3, 4]
    for count in (5, 6, 1):
        assert torch.allclose(fused(batches[count]), layer(batches[count]), atol=1e-6)
    assert packed == [1, 2, 3, 4, 5, 6, 1]
    assert len(fused[0]._packed) == 4


@torch.no_grad()
@pytest.mark.usefixtures("fused_layers")
def test_fused_products_answer_the_same() -> None:
    attention = MSDeformableAttention(8, 2, 2, 3, project=True)
    nn.init.normal_(attention.value_proj.bias)
    fused = copy.deepcopy(attention)
    use_onednn(fused)
    assert sum(isinstance(m, FusedLinear) for m in fused.modules()) == 4
    for batch in (1, 3):
        maps = [torch.randn(batch, 8, n, n + 1) for n in (4, 2)]
        last = [m.contiguous(memory_format=torch.channels_last) for m in maps]
        expected = attention.values(maps)
        for kind in (maps, last):
            found = fused.values(kind)
            for a, b in zip(found, expected, strict=True):
                assert torch.allclose(a, b, atol=1e-5)
        query, boxes = torch.randn(batch, 5, 8), torch.rand(batch, 5, 4)
        out = fused(query, boxes, fused.values(last))
        assert torch.allclose(out, attention(query, boxes, expected), atol=1e-5)


def test_without_the_operators_layers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "available", lambda: False)
    layer = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))
    use_onednn(layer)
    assert [type(module) for module in layer] == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear]


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_traced_graphs_hold_plain_operators() -> None:
    layer = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()).eval().requires_grad_(False)
    use_onednn(layer)
    x = torch.rand(1, 2, 3, 3)
    traced = torch.jit.trace(layer, x)
    exported = torch.export.export(layer, (x,))
    for graph in (str(traced.inlined_graph), str(exported.graph)):
        assert "mkldnn" not in graph
        assert "relu" in graph


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.7, 0.0, -0.6])
@pytest.mark.parametrize("bias", [0.4, -0.3])
def test_affine_blocks_fold_into_rectified_convolutions(scale: float, bias: float) -> None:
    plain = ConvBNAct(3, 5, 3, use_lab=True).eval()
    plain.bn.running_mean.normal_()
    plain.lab.scale.fill_(scale)
    plain.lab.bias.fill_(bias)
    folded = copy.deepcopy(plain)
    folded.convert_to_deploy()
    assert isinstance(folded.lab, nn.Identity)
    x = torch.randn(2, 3, 9, 7)
    assert torch.allclose(folded(x), plain(x), atol=1e-5)
    fused = copy.deepcopy(folded).requires_grad_(False)
    use_onednn(fused)
    assert torch.allclose(fused(x), plain(x), atol=1e-5)


@torch.no_grad()
@pytest.mark.usefixtures("fused_layers")
def test_fused_layers_under_autocast() -> None:
    """bf16 from float32 and from bf16 input; float32 again outside; new weights are noticed."""
    layer = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(2), nn.Linear(15, 6)).eval()
    layer.requires_grad_(False)
    fused = copy.deepcopy(layer)
    use_onednn(fused)
    x = torch.randn(2, 4, 5, 7)
    for _ in range(2):
        for image in (x, x.bfloat16()):
            with torch.autocast("cpu", torch.bfloat16):
                found, wanted = fused(image), layer(image)
            assert found.dtype == wanted.dtype == torch.bfloat16
            assert torch.allclose(found, wanted, atol=0.05)
        assert torch.allclose(fused(x), layer(x), atol=1e-5)
        for model in (fused, layer):
            for parameter in model.parameters():
                parameter.mul_(1.5)
