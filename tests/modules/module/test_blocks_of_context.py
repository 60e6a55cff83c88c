"""Blocks of priors, pools, states and spectra, against naive transcriptions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from detrkit.registry import MODULES
from tests.modules.naive import (
    conv,
    gelu,
    image,
    image_norm,
    layer_norm,
    made,
    norm,
    relu,
    same,
    sigmoid,
    silu,
    softmax,
    unit,
)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def test_global_block_averages_what_is_there():
    module, x = made("GlobalBlock", in_channels=3, out_channels=4), image(2, 3, 5, 6)
    y = conv(module.enter, x)
    n = image_norm(module.norm1, y)
    mean = torch.zeros_like(n)
    for i in range(5):
        for j in range(6):
            around = n[:, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            mean[:, :, i, j] = around.mean((2, 3))
    y = y + mean - n
    first, _, second = module.mlp
    same(module(x), y + conv(second, gelu(conv(first, image_norm(module.norm2, y)))))


@pytest.mark.parametrize("resize", [None, "down", "up"])
def test_local_block(resize):
    hidden = None if resize is None else 5
    module = made(
        "LocalBlock", in_channels=3, out_channels=4, hidden_channels=hidden, resize=resize
    )
    x = image(2, 3, 5, 6)
    inside = unit(module.conv2, unit(module.conv1, x, gelu)) + unit(module.shortcut, x)
    h = gelu(inside)
    if resize == "down":
        h = gelu(norm(module.leave.norm, conv(module.leave.conv, h)[:, :, ::2, ::2]))
    if resize == "up":
        rows, columns = (
            torch.linspace(0, n - 1, 2 * n, dtype=torch.float64) for n in (h.shape[2], h.shape[3])
        )
        hats = [
            (1 - (place[:, None] - torch.arange(n)).abs()).clamp(min=0)
            for place, n in ((rows, h.shape[2]), (columns, h.shape[3]))
        ]
        h = unit(module.leave, hats[0] @ h @ hats[1].T, gelu)
    same(module(x), h)


def test_ope():
    module, x = made("OPE", in_channels=3, out_channels=4), image(2, 3, 5, 6)
    first, second = module.layers
    y = conv(second.conv, unit(first, x, gelu))[:, :, ::2, ::2]
    same(module(x), gelu(norm(second.norm, y)))


@pytest.mark.parametrize("groups", [4, 6])
def test_elgca(groups):
    module, x = made("ELGCABlock", in_channels=8, num_groups=groups), image(2, 8, 6, 4)
    part = module.attention
    n = layer_norm(module.norm1, x)
    local = gelu(conv(part.local, n[:, :4]))
    parts = gelu(conv(part.groups, n[:, 4:])).split(2, 1)
    framed = F.pad(sum(parts[:-3]), (1, 1, 1, 1))
    q = framed.unfold(2, 3, 2).unfold(3, 3, 2).mean((4, 5)).flatten(2)  # zeros count
    k = parts[-3].unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)).flatten(2)
    weights = softmax(torch.einsum("bqn,bkn->bqk", q, k), 1)
    attended = torch.einsum("bqk,bqhw->bkhw", weights, parts[-2])
    y = x + torch.cat([local, parts[-1], attended], 1)
    u = gelu(conv(module.fc1, layer_norm(module.norm2, y)))
    same(module(x), y + conv(module.fc2, u + gelu(conv(module.dwconv, u))))


@pytest.mark.parametrize("prior", ["gaussian", "edge"])
def test_leg_block(prior):
    module, x = made("LEGBlock", in_channels=8, prior=prior), image(2, 8, 7, 6)
    start = MODULES.create("LEGBlock", in_channels=8, prior=prior).double().prior
    for own, fixed in zip(module.prior.filters, start.filters, strict=True):
        own.copy_(fixed)
    if prior == "edge":
        kernel = torch.tensor([[-3, 0, 3], [-10, 0, 10], [-3, 0, 3]], dtype=torch.float64)
        kernels = [kernel, kernel.T]
    else:
        line = torch.exp(-(torch.arange(-2, 3, dtype=torch.float64) ** 2) / 2)
        kernels = [torch.outer(line, line) / line.sum() ** 2]
    seen = []
    for kernel in kernels:
        edge = len(kernel) // 2
        windows = F.pad(x, [edge] * 4).unfold(2, len(kernel), 1).unfold(3, len(kernel), 1)
        seen.append((windows * kernel).sum((4, 5)))
    filtered = seen[0] if prior == "gaussian" else (seen[0] ** 2 + seen[1] ** 2).sqrt()
    a = x + relu(norm(module.prior.norm_act[0], filtered))
    first, second, third = module.prior.extra
    a = unit(third, unit(second, unit(first, a, relu), relu))
    t = unit(module.convolve, x * a + x, relu)
    means = F.pad(t.mean((2, 3)), (1, 1))
    assert module.channel.weight.shape == (1, 1, 3)  # |log2(8) + 1| / 2 = 2, the next odd number
    weights = sigmoid((means.unfold(1, 3, 1) * module.channel.weight[0, 0]).sum(-1))
    z = norm(module.norm1, x + t * weights[:, :, None, None])
    first, second = module.mlp
    expected = x + norm(module.norm2, conv(second, unit(first, z, relu)))
    same(module(x), expected, 1e-6)  # the fixed filters are float32 numbers


def test_priors_are_fixed_and_flat_maps_have_a_gradient():
    module = MODULES.create("LEGBlock", in_channels=4, prior="edge")
    assert not any(p.requires_grad for p in module.prior.filters)
    x = torch.ones(2, 4, 6, 6, requires_grad=True)
    with torch.enable_grad():
        module(x).sum().backward()
    assert x.grad.isfinite().all()


def test_efficient_vim():
    module, x = made("EfficientViMBlock", in_channels=4, state_dim=3), image(2, 4, 5, 6)
    shares = sigmoid(module.alpha)
    first, (layer, mixer), third, (wide, narrow) = module.steps
    assert layer.eps == 1e-5  # the authors' norm of sequences; their other blocks have 1e-6

    def mixed(u):
        n = layer_norm(layer, u)
        b, c, dt = conv(mixer.bcdt[1], conv(mixer.bcdt[0], n)).flatten(2).split(3, 1)
        a = softmax(dt + mixer.a[:, None], -1)
        h = torch.einsum("bcl,bnl->bcn", n.flatten(2), a * b)
        h, z = torch.einsum("oc,bcn->bon", mixer.hz.weight[..., 0], h).split(4, 1)
        out = torch.einsum("oc,bcn->bon", mixer.out.weight[..., 0], h * silu(z) + mixer.d * h)
        return torch.einsum("bcn,bnl->bcl", out, c).reshape(u.shape)

    y = x
    steps = (
        lambda u: unit(first, u),
        mixed,
        lambda u: unit(third, u),
        lambda u: unit(narrow, unit(wide, u, relu)),
    )
    for share, step in zip(shares[:, :, None, None], steps, strict=True):
        y = (1 - share) * y + share * step(y)
    same(module(x), y)


def test_jdpm():
    module, x = made("JDPM", in_channels=4, out_channels=16), image(1, 4, 6, 5)
    f = unit(module.enter, x, relu)
    into, out = module.gate.layers[0], module.gate.layers[1]
    seen = []
    for rate, (first, second), (last, _) in zip(
        (3, 5, 7, 9), module.dilated, module.norms, strict=True
    ):
        assert second.conv.dilation == (rate, rate)
        s = unit(second, unit(first, f + seen[-1] if seen else f), relu)
        spectrum = torch.fft.fft(torch.fft.fft(s, dim=2), dim=3)
        gate = sigmoid(conv(out, unit(into, spectrum.real, relu)))
        back = torch.fft.ifft(torch.fft.ifft(gate * spectrum, dim=2), dim=3)
        seen.append(s + relu(norm(last, (back.real**2 + back.imag**2).sqrt())))
    same(module(x), f + unit(module.leave, torch.cat([*seen, f], 1), relu))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("LocalBlock", {"in_channels": 4, "resize": "half"}, "down, up or None, got 'half'"),
        ("LocalBlock", {"in_channels": 4, "out_channels": 4, "hidden_channels": 5}, "got 5"),
        ("ELGCABlock", {"in_channels": 6}, "multiple of 4, got 6"),
        ("ELGCABlock", {"in_channels": 8, "num_groups": 3}, "at least 4, got 3"),
        ("LEGBlock", {"in_channels": 8, "prior": "scharr"}, "gaussian or edge, got 'scharr'"),
        ("JDPM", {"in_channels": 8}, "at least 16 channels, got 8"),
    ],
)
def test_wrong_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        MODULES.create(name, **arguments)


@pytest.mark.parametrize("size", [(6, 5), (8, 8)])
def test_dynamic_filter(size):
    module, x = made("DynamicFilter", in_channels=4, size=size), image(2, 4, 6, 5)

    def star(layer, u):
        return layer.scale * relu(u) ** 2 + layer.bias

    first, act, second = module.route
    routes = star(act, x.mean((2, 3)) @ first.weight.T) @ second.weight.T
    routes = softmax(routes.reshape(2, 4, 8), 1)
    into, act = module.enter
    y = star(act, torch.einsum("oc,bchw->bohw", into.weight, x))
    filters = module.filters.movedim((2, 3), (0, 1))
    if size != (6, 5):
        filters = F.interpolate(filters, (6, 3), mode="bicubic", align_corners=True)
    bank = filters[:, 0] + 1j * filters[:, 1]
    mixed = sum(routes[:, f, :, None, None] * bank[f] for f in range(4))
    y = torch.fft.irfft2(torch.fft.rfft2(y) * mixed, s=(6, 5))
    same(module(x), torch.einsum("oc,bchw->bohw", module.leave.weight, y))


@pytest.mark.parametrize("before", [False, True])
def test_irmb_attends_to_pixels_far_apart(before):
    arguments = {"dim_head": 2, "window_size": 2, "expansion": 2.0, "qkv_bias": True}
    module = made("iRMB", in_channels=4, norm="layer", attn_pre=before, **arguments)
    x = image(1, 4, 5, 6)
    n = F.pad(layer_norm(module.norm, x), (0, 0, 0, 1))  # three windows along each side
    q, k = conv(module.qk, n).split(4, 1)
    values = n if before else relu(conv(module.v[0], n))
    v = torch.zeros_like(values)
    per_head = values.shape[1] // 2
    for i in range(6):
        for j in range(6):
            places = [(y, z) for y in (i % 3, i % 3 + 3) for z in (j % 3, j % 3 + 3)]
            for head in range(2):
                c = slice(2 * head, 2 * head + 2)
                scores = torch.stack([q[0, c, i, j] @ k[0, c, y, z] for y, z in places])
                out = slice(per_head * head, per_head * (head + 1))
                seen = torch.stack([values[0, out, y, z] for y, z in places])
                v[0, out, i, j] = softmax(scores / 2**0.5, 0) @ seen
    v = (relu(conv(module.v[0], v)) if before else v)[:, :, :5]
    same(module(x), x + conv(module.leave, v + unit(module.local, v, silu)))


def test_irmb_without_attention_changes_width_and_size():
    module = made("iRMB", in_channels=4, out_channels=6, stride=2, attn=False)
    x = image(1, 4, 5, 6)
    v = relu(conv(module.v[0], norm(module.norm, x)))
    local = silu(norm(module.local.norm, conv(module.local.conv, v)[:, :, ::2, ::2]))
    same(module(x), conv(module.leave, local))


@pytest.mark.parametrize("side", [0, -1])
def test_irmb_with_one_window_sees_the_whole_map(side):
    module = made("iRMB", in_channels=4, dim_head=4, window_size=side)
    x = image(1, 4, 5, 6)
    n = norm(module.norm, x)
    q, k = conv(module.qk, n).flatten(2).split(4, 1)
    weights = softmax(q.transpose(1, 2) @ k / 2, -1)
    v = relu(conv(module.v[0], n)).flatten(2) @ weights.transpose(1, 2)
    v = v.reshape(x.shape)
    same(module(x), x + conv(module.leave, v + unit(module.local, v, silu)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 48}, "must divide 48 channels, got 64"),
        ({"in_channels": 64, "stride": 3}, "1 or 2, got 3"),
        ({"in_channels": 64, "norm": "group"}, "batch, layer or None, got 'group'"),
    ],
)
def test_irmb_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        MODULES.create("iRMB", **arguments)
