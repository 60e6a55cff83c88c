"""Gather and distribute: Gold-YOLO, Wang et al., NeurIPS 2023, arXiv:2309.11331.

Maps of all levels are gathered at one size (FAM), mixed (IFM), and the result is injected into
each level:

    low    SimFusion4In -> IFM              convolutions, at the size of P4
    high   PyramidPoolAgg -> TopBasicLayer  attention, at half the size of P5
    inject y = conv(local) · σ(conv global) + conv'(global)

σ is the hard sigmoid. Where the local map is the smaller one the authors leave it out; so do we.
Their attention does not scale q kᵀ either.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct, fused_weights
from detrkit.layers.drop_path import DropPath
from detrkit.registry import MODULES, Traits

_register = partial(
    MODULES.register, family="neck_module", paper="arXiv:2309.11331", venue="NeurIPS 2023"
)
_POOLED = "adaptive pooling to sizes that do not divide the map"


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Pooled to a smaller size, or interpolated to a larger one."""
    if x.shape[2] > size[0] or x.shape[3] > size[1]:
        return F.adaptive_avg_pool2d(x, size)
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


@_register(
    "SimFusion4In",
    "SimFusion_4in",
    example={"in_channels": [4, 6, 8, 10]},
    traits=Traits(scale=0.25, sides=(1, 0.5, 0.25, 0.125), onnx=_POOLED),
)
class SimFusion4In(nn.Module):
    """[P2, P3, P4, P5] at the size of P4, concatenated. -> (B, sum of C_i, h, w).

    Args:
        in_channels: widths of the four maps.
    """

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = sum(in_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = _size(maps[2])
        return torch.cat([resized(x, size) for x in maps], dim=1)


class RepVGG(nn.Module):
    """3×3, 1×1 and the input, each with a norm, then ReLU. (B, C, H, W) -> (B, C, H, W).

    RepVGG, Ding et al., CVPR 2021, arXiv:2101.03697, with all three branches.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv3 = ConvNormAct(channels, channels, 3)
        self.conv1 = ConvNormAct(channels, channels, 1)
        self.identity = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        if "conv" in self._modules:
            return self.conv(x).relu()
        return (self.conv3(x) + self.conv1(x) + self.identity(x)).relu()

    def convert_to_deploy(self) -> None:
        """One 3×3 convolution."""
        if "conv" in self._modules:
            return
        kernel, bias = fused_weights(self.conv3.conv, self.conv3.norm)
        small, small_bias = fused_weights(self.conv1.conv, self.conv1.norm)
        channels = kernel.shape[0]
        unit = nn.Conv2d(channels, channels, 1, bias=False).to(kernel)
        with torch.no_grad():
            unit.weight.copy_(torch.eye(channels, dtype=kernel.dtype)[:, :, None, None])
        own, own_bias = fused_weights(unit, self.identity)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1).to(kernel)
        with torch.no_grad():
            self.conv.weight.copy_(kernel + F.pad(small + own, [1, 1, 1, 1]))
            self.conv.bias.copy_(bias + small_bias + own_bias)  # type: ignore[union-attr]
        del self.conv3, self.conv1, self.identity


@_register(
    example={"in_channels": 16, "out_channels": 12, "hidden_channels": 8, "num_blocks": 2},
    traits=Traits(),
)
class IFM(nn.Module):
    """Mixes a gathered map by convolutions. (B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: C.
        out_channels: what all injections take together; None keeps the width.
        hidden_channels: width of the blocks.
        num_blocks: blocks in a row.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        hidden_channels: int = 96,
        num_blocks: int = 3,
    ) -> None:
        super().__init__()
        self.out_channels = in_channels if out_channels is None else out_channels
        self.layers = nn.Sequential(
            ConvNormAct(in_channels, hidden_channels, 1, act="silu"),
            *(RepVGG(hidden_channels) for _ in range(num_blocks)),
            ConvNormAct(hidden_channels, self.out_channels, 1, act="silu"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@_register(
    "SimFusion3In",
    "SimFusion_3in",
    example={"in_channels": [8, 12, 16], "out_channels": 12},
    traits=Traits(scale=0.5, sides=(1, 0.5, 0.25), onnx=_POOLED),
)
class SimFusion3In(nn.Module):
    """Three levels at the size of the middle one. [fine, middle, coarse] -> (B, out, h, w).

    Args:
        in_channels: widths of the three maps.
        out_channels: None: that of the middle map.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int | None = None) -> None:
        super().__init__()
        self.out_channels = c = in_channels[1] if out_channels is None else out_channels
        self.match = nn.ModuleList(
            nn.Identity() if width == c else ConvNormAct(width, c, 1, act="relu")
            for width in in_channels
        )
        self.fuse = ConvNormAct(3 * c, c, 1, act="relu")

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = _size(maps[1])
        brought = [match(resized(x, size)) for match, x in zip(self.match, maps, strict=True)]
        return self.fuse(torch.cat(brought, dim=1))


@_register(
    "InjectionMultiSum",
    "InjectionMultiSum_Auto_pool",
    example={"in_channels": [8, 20], "out_channels": 12, "global_channels": [12, 8], "part": 1},
    traits=Traits(sides=(1, 0.5)),
)
class InjectionMultiSum(nn.Module):
    """Injects a part of the global map. [(B, C₀, h, w), (B, C₁, H, W)] -> (B, out, h, w).

    Args:
        in_channels: C₀ of the local map, C₁ of the global one.
        out_channels: None: C₀.
        global_channels: how the global map is divided; None: it is not.
        part: which of its parts is injected.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int | None = None,
        global_channels: Sequence[int] | None = None,
        part: int = 0,
    ) -> None:
        super().__init__()
        local, whole = in_channels
        self.parts = tuple(global_channels or (whole,))
        if sum(self.parts) != whole or not 0 <= part < len(self.parts):
            raise ValueError(
                f"part {part} of global_channels {list(self.parts)} does not fit {whole} channels"
            )
        self.part = part
        self.out_channels = c = local if out_channels is None else out_channels
        self.local = ConvNormAct(local, c, 1)
        self.gate = ConvNormAct(self.parts[part], c, 1)
        self.embed = ConvNormAct(self.parts[part], c, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        local, whole = maps
        chosen = whole.split(self.parts, dim=1)[self.part]
        size = _size(local)
        gate, embedded = self.gate(chosen), self.embed(chosen)
        if local.shape[2] >= whole.shape[2]:
            gate = F.interpolate(F.hardsigmoid(gate), size=size, mode="bilinear")
            embedded = F.interpolate(embedded, size=size, mode="bilinear")
        else:
            gate = F.adaptive_avg_pool2d(gate, size)
            embedded = F.adaptive_avg_pool2d(embedded, size)
        return self.local(local) * gate + embedded


@_register(
    example={"in_channels": [8, 12, 16], "out_channels": 24},
    traits=Traits(scale=0.125, sides=(1, 0.5, 0.25), onnx=_POOLED),
)
class PyramidPoolAgg(nn.Module):
    """Levels pooled below the last one, concatenated. [(B, C_i, h_i, w_i)] -> (B, out, h, w).

    Args:
        in_channels: widths of the maps.
        out_channels: of a 1×1 convolution behind; None: there is none.
        stride: the size is that of the last map, divided and rounded up.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int | None = None, stride: int = 2
    ) -> None:
        super().__init__()
        total = sum(in_channels)
        self.stride = stride
        self.out_channels = total if out_channels is None else out_channels
        self.project = (
            nn.Identity()
            if out_channels is None
            else ConvNormAct(total, out_channels, 1, act="silu")
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        height, width = _size(maps[-1])
        size = -(-height // self.stride), -(-width // self.stride)
        return self.project(torch.cat([F.adaptive_avg_pool2d(x, size) for x in maps], dim=1))


class GatherAttention(nn.Module):
    """Attention among the pixels, without a scale. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, key_dim: int, num_heads: int, attn_ratio: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        value_dim = int(attn_ratio * key_dim)
        self.to_q = ConvNormAct(channels, key_dim * num_heads, 1)
        self.to_k = ConvNormAct(channels, key_dim * num_heads, 1)
        self.to_v = ConvNormAct(channels, value_dim * num_heads, 1)
        self.project = nn.Sequential(nn.ReLU6(), ConvNormAct(value_dim * num_heads, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            to(x).flatten(2).unflatten(1, (self.num_heads, -1))  # (B, heads, d, N)
            for to in (self.to_q, self.to_k, self.to_v)
        )
        mixed = v @ (q.transpose(2, 3) @ k).softmax(-1).transpose(2, 3)
        return self.project(mixed.flatten(1, 2).unflatten(2, _size(x)))


class GatherBlock(nn.Module):
    """Attention and a convolutional feed-forward part, each with a shortcut."""

    def __init__(
        self,
        channels: int,
        key_dim: int,
        num_heads: int,
        mlp_ratio: float,
        attn_ratio: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.attention = GatherAttention(channels, key_dim, num_heads, attn_ratio)
        self.mlp = nn.Sequential(
            ConvNormAct(channels, hidden, 1),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.ReLU6(),
            ConvNormAct(hidden, channels, 1),
        )
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(x))
        return x + self.drop(self.mlp(x))


@_register(
    example={"in_channels": 16, "out_channels": 24, "num_blocks": 1},
    traits=Traits(),
)
class TopBasicLayer(nn.Module):
    """Mixes a gathered map by attention. (B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: C.
        out_channels: what all injections take together; None keeps the width.
        num_blocks: blocks in a row.
        key_dim, num_heads: of the attention.
        mlp_ratio: width of the feed-forward part, relative to C.
        attn_ratio: width of a value, relative to a key.
        drop_path: rate at which training leaves a branch out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        num_blocks: int = 2,
        key_dim: int = 8,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        attn_ratio: float = 2.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.out_channels = in_channels if out_channels is None else out_channels
        self.blocks = nn.Sequential(
            *(
                GatherBlock(in_channels, key_dim, num_heads, mlp_ratio, attn_ratio, drop_path)
                for _ in range(num_blocks)
            )
        )
        self.project = nn.Conv2d(in_channels, self.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.blocks(x))


@_register(
    example={"in_channels": [8, 12]},
    traits=Traits(scale=0.5, sides=(1, 0.5), onnx=_POOLED),
)
class AdvPoolFusion(nn.Module):
    """A fine map pooled to a coarse one, concatenated. [fine, coarse] -> (B, C₀ + C₁, h, w).

    Args:
        in_channels: widths of the two maps.
    """

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = sum(in_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.cat([F.adaptive_avg_pool2d(maps[0], _size(maps[1])), maps[1]], dim=1)
