"""GL-VSS: global-local visual state space. Lightweight segmentation by self-attention and state
spaces, IEEE TGRS 2025 (document 10969832).

x      = relu6 BN W IIA X                       IIA x = x + x·g_H(x) + x·g_W(x), the same weights
local  = CA(W [I_1 b, I_2 I_1 b, I_3 I_2 I_1 b]) + b,   b = silu BN W x + sep x
global = LN(t + Mamba LN t)                     four chunks of the channels, the same weights
s      = sep(global + local)
y      = sep(s · σ cos(global, local)) + s + global

I_r is a residual bottleneck around a separable convolution of dilation r; CA the channel gate of
CBAM, arXiv:1807.06521. The backward and random branches of the plug-in's mixer never act: left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.layers.depthwise import separable
from detrkit.layers.state_space import MambaMixer, per_chunk
from detrkit.layers.tokens import from_tokens, size_of, tokens_of
from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits


class SideInteraction(nn.Module):
    """IIA: gates for each row and each column, by the same weights. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.Conv2d(2, 1, 1)
        self.conv = nn.Conv1d(channels, channels, 7, padding=3, groups=channels, bias=False)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + x * self.gate(x, 3)[..., None] + x * self.gate(x, 2)[:, :, None]

    def gate(self, x: Tensor, side: int) -> Tensor:
        """Along the side that is left when `side` is pooled: (B, C, H, W) -> (B, C, L)."""
        pooled = torch.stack([x.amax(side), x.mean(side)], 1)
        return self.norm(self.conv(self.pool(pooled)[:, 0])).sigmoid()


class DilatedResidual(nn.Module):
    """I_r: 1×1, dilated separable 3×3, 1×1 and a shortcut. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        dilation: r.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvNormAct(channels, channels, 1, act="relu"),
            separable(channels, channels, dilation=dilation),
            ConvNormAct(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.layers(x))


class ChannelGate(nn.Module):
    """σ(W₂ relu(W₁ mean) + W₂ relu(W₁ max)). (B, C, H, W) -> (B, C, 1, 1).

    Args:
        channels: C.
        reduction: C relative to the width inside.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels // reduction, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels // reduction, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        mean, largest = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return (self.layers(mean) + self.layers(largest)).sigmoid()


class LocalBranch(nn.Module):
    """Growing dilations in a row, gated. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.point = ConvNormAct(channels, channels, 1, bias=True, act="silu")
        self.near = separable(channels, channels)
        self.rings = nn.ModuleList(DilatedResidual(channels, rate) for rate in (1, 2, 3))
        self.merge = nn.Conv2d(3 * channels, channels, 1)
        self.gate = ChannelGate(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = start = self.point(x) + self.near(x)
        rings = []
        for ring in self.rings:
            x = ring(x)
            rings.append(x)
        merged = self.merge(torch.cat(rings, 1))
        return merged * self.gate(merged) + start


class SequenceUnit(nn.Module):
    """LN(t + Mamba LN t). (B, L, C) -> (B, L, C).

    Args:
        dim: C.
        d_state: n, states of a channel.
    """

    def __init__(self, dim: int, d_state: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mixer = MambaMixer(dim, d_state)
        self.last_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last_norm(tokens + self.mixer(self.norm(tokens)))


@MODULES.register(
    "GL_VSS",
    "GLVSS",
    family="mamba",
    paper="IEEE TGRS 2025, document 10969832",
    venue="IEEE TGRS 2025",
    example={"in_channels": 64, "d_state": 4},
    traits=Traits(float32="the scan"),
)
class GLVSS(nn.Module):
    """Dilated convolutions beside a scan of channel chunks. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C, a multiple of 4 and at least 16.
        depth: sequence units of the global branch.
        d_state: n, states of a channel.

    Raises:
        ValueError: another C.
    """

    def __init__(self, in_channels: int, depth: int = 1, d_state: int = 16) -> None:
        super().__init__()
        if in_channels % 4 or in_channels < 16:
            raise ValueError(
                f"in_channels must be a multiple of 4 and at least 16, got {in_channels}"
            )
        self.out_channels = in_channels
        self.conform = nn.Sequential(
            SideInteraction(in_channels),
            ConvNormAct(in_channels, in_channels, 1, bias=True, act="relu6"),
        )
        self.local = LocalBranch(in_channels)
        self.units = nn.ModuleList(SequenceUnit(in_channels // 4, d_state) for _ in range(depth))
        self.join = separable(in_channels, in_channels)
        self.embed = separable(in_channels, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conform(x)
        near, tokens = self.local(x), tokens_of(x)
        for unit in self.units:
            tokens = per_chunk(unit, tokens, 4)
        far = from_tokens(tokens, size_of(x))
        joined = self.join(far + near)
        likeness = F.cosine_similarity(precise(far), precise(near), dim=1).sigmoid()
        return self.embed(joined * likeness[:, None].to(joined.dtype)) + joined + far
