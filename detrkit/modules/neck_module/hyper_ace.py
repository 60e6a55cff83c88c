"""HyperACE: hypergraph-based adaptive correlation enhancement. YOLOv13, Lei et al.,
arXiv:2506.17733, 2025.

    prototypes = base + W [mean X, max X]                     M hyperedges, section 3.2
    A = softmax over pixels of (X W_p) · prototypes
    edges = GELU(W_e Aᵀ X),   y = X + GELU(W_v A edges)

C3AH puts this into a cross-stage shell; HyperACE joins three scales, two such shells (high order)
and a chain of depthwise-separable blocks (low order).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.layers.tokens import from_tokens, size_of, split_heads, tokens_of
from detrkit.modules.block.csp import C2fStage, C3Stage
from detrkit.registry import MODULES, Traits

Context = Literal["mean", "max", "both"]
#: Channels of a head.
HEAD = 16


class DSConv(nn.Module):
    """Depthwise and pointwise convolution, one norm, SiLU. (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, kernel_size, padding=kernel_size // 2, groups=in_channels,
            bias=False,
        )  # fmt: skip
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class DSBottleneck(nn.Module):
    """Two `DSConv` and a shortcut. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(
        self,
        channels: int,
        shortcut: bool = True,
        expansion: float = 0.5,
        kernels: tuple[int, int] = (3, 5),
    ) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.first = DSConv(channels, hidden, kernels[0])
        self.second = DSConv(hidden, channels, kernels[1])
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return x + y if self.shortcut else y


def dsc3k(
    channels: int, shortcut: bool = True, expansion: float = 0.5, kernels: tuple[int, int] = (3, 7)
) -> C3Stage:
    """A C3 stage of two `DSBottleneck`."""
    hidden = int(channels * expansion)
    blocks: list[nn.Module] = [DSBottleneck(hidden, shortcut, 1.0, kernels) for _ in range(2)]
    return C3Stage(channels, channels, hidden, blocks)


@MODULES.register(
    family="neck_module",
    paper="arXiv:2506.17733",
    venue="arXiv 2025",
    example={"in_channels": 16, "out_channels": 24, "num_blocks": 2},
    traits=Traits(),
)
class DSC3k2(C2fStage):
    """A stage of depthwise-separable blocks. (B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: C.
        out_channels: None keeps the width.
        dsc3k: whether each block is a C3 stage, or a bottleneck.
        expansion: width of the two halves, relative to `out_channels`.
        kernels: sides of the depthwise convolutions of a bottleneck.
        shortcut: of the bottlenecks.
        num_blocks: blocks in a row.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        dsc3k: bool = True,
        expansion: float = 0.5,
        kernels: tuple[int, int] = (3, 7),
        shortcut: bool = True,
        *,
        num_blocks: int = 1,
    ) -> None:
        out = in_channels if out_channels is None else out_channels
        hidden = int(out * expansion)
        make = _c3k if dsc3k else _bottleneck
        blocks = [make(hidden, shortcut, kernels) for _ in range(num_blocks)]
        super().__init__(in_channels, out, hidden, blocks)
        self.out_channels = out


def _c3k(channels: int, shortcut: bool, kernels: tuple[int, int]) -> nn.Module:
    return dsc3k(channels, shortcut, 1.0, kernels)


def _bottleneck(channels: int, shortcut: bool, kernels: tuple[int, int]) -> nn.Module:
    return DSBottleneck(channels, shortcut, 1.0, kernels)


class AdaptiveHypergraph(nn.Module):
    """Pixels to hyperedges and back. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C, a multiple of 16.
        num_hyperedges: M.
        context: what of the map the hyperedges are shifted by.
        dropout: of the logits, in training.
    """

    def __init__(
        self,
        channels: int,
        num_hyperedges: int = 8,
        context: Context = "both",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if channels % HEAD:
            raise ValueError(f"the width inside must be a multiple of {HEAD}, got {channels}")
        self.num_heads = channels // HEAD
        self.context = context
        self.base = nn.Parameter(torch.empty(num_hyperedges, channels))
        nn.init.xavier_uniform_(self.base)
        seen = 2 * channels if context == "both" else channels
        self.shift = nn.Linear(seen, num_hyperedges * channels)
        self.project = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.to_edges = nn.Sequential(nn.Linear(channels, channels), nn.GELU())
        self.to_pixels = nn.Sequential(nn.Linear(channels, channels), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        tokens = tokens_of(x)
        shares = self.membership(tokens)
        edges = self.to_edges(shares.transpose(1, 2) @ tokens)  # (B, M, C)
        return from_tokens(tokens + self.to_pixels(shares @ edges), size_of(x))

    def membership(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, M): how much of each hyperedge a pixel is; sums to one over N."""
        seen = {"mean": tokens.mean(1), "max": tokens.amax(1)}
        context = (
            torch.cat([seen["mean"], seen["max"]], dim=-1)
            if self.context == "both"
            else seen[self.context]
        )
        prototypes = self.base + self.shift(context).unflatten(1, self.base.shape)  # (B, M, C)
        queries = split_heads(self.project(tokens), self.num_heads)
        keys = split_heads(prototypes, self.num_heads)
        logits = (queries @ keys.transpose(2, 3) * HEAD**-0.5).mean(1)  # (B, N, M)
        return self.dropout(logits).softmax(1)


@MODULES.register(
    family="neck_module",
    paper="arXiv:2506.17733",
    venue="arXiv 2025",
    example={"in_channels": 16, "out_channels": 32, "num_hyperedges": 4},
    traits=Traits(),
)
class C3AH(nn.Module):
    """An adaptive hypergraph in a cross-stage shell. (B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: C.
        out_channels: None keeps the width.
        expansion: width inside, relative to `out_channels`; a multiple of 16.
        num_hyperedges: M.
        context: "mean", "max" or "both".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        expansion: float = 1.0,
        num_hyperedges: int = 8,
        context: Context = "both",
    ) -> None:
        super().__init__()
        self.out_channels = in_channels if out_channels is None else out_channels
        hidden = int(self.out_channels * expansion)
        self.enter = ConvNormAct(in_channels, hidden, 1, act="silu")
        self.bypass = ConvNormAct(in_channels, hidden, 1, act="silu")
        self.hypergraph = AdaptiveHypergraph(hidden, num_hyperedges, context)
        self.fuse = ConvNormAct(2 * hidden, self.out_channels, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(torch.cat([self.hypergraph(self.enter(x)), self.bypass(x)], dim=1))


@MODULES.register(
    family="neck_module",
    paper="arXiv:2506.17733",
    venue="arXiv 2025",
    example={"in_channels": [8, 16, 24], "out_channels": 32, "num_hyperedges": 4},
    traits=Traits(scale=0.5, sides=(1, 0.5, 0.25)),
)
class HyperACE(nn.Module):
    """Three scales -> the middle one. [(B, C₀, 2h, 2w), (B, C₁, h, w), (B, C₂, h/2, w/2)] ->
    (B, out_channels, h, w).

    Args:
        in_channels: widths of the fine, middle and coarse map.
        out_channels: None: C₁.
        num_blocks: low-order blocks in a row.
        num_hyperedges: M.
        dsc3k: whether low-order blocks are C3 stages, or bottlenecks.
        shortcut: of the bottlenecks.
        expansion: width of each branch, relative to `out_channels`; a multiple of 16.
        inner_expansion: width inside the high-order shells, relative to a branch.
        context: "mean", "max" or "both".
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int | None = None,
        *,
        num_blocks: int = 1,
        num_hyperedges: int = 8,
        dsc3k: bool = True,
        shortcut: bool = False,
        expansion: float = 0.5,
        inner_expansion: float = 1.0,
        context: Context = "both",
    ) -> None:
        super().__init__()
        middle = in_channels[1]
        self.out_channels = middle if out_channels is None else out_channels
        c = int(self.out_channels * expansion)
        self.join = ConvNormAct(sum(in_channels), middle, 1, act="silu")
        self.split = ConvNormAct(middle, 3 * c, 1, act="silu")
        high = (c, c, inner_expansion, num_hyperedges, context)
        self.high = nn.ModuleList(C3AH(*high) for _ in range(2))
        self.low = nn.ModuleList(_low_order(c, dsc3k, shortcut) for _ in range(num_blocks))
        self.fuse = ConvNormAct((4 + num_blocks) * c, self.out_channels, 1, act="silu")

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        fine, middle, coarse = maps
        joined = torch.cat(
            [
                F.avg_pool2d(fine, 2),
                middle,
                F.interpolate(coarse, scale_factor=2.0, mode="nearest"),
            ],
            dim=1,
        )
        passed, related, chained = self.split(self.join(joined)).chunk(3, dim=1)
        found = [passed, self.high[0](related), chained]
        for block in self.low:
            found.append(block(found[-1]))
        return self.fuse(torch.cat([*found, self.high[1](related)], dim=1))


def _low_order(channels: int, c3k: bool, shortcut: bool) -> nn.Module:
    return dsc3k(channels, shortcut) if c3k else DSBottleneck(channels, shortcut)


@MODULES.register(
    family="neck_module",
    paper="arXiv:2506.17733",
    venue="arXiv 2025",
    example={"in_channels": 8},
    traits=Traits(scale=0.5),
)
class DownsampleConv(nn.Module):
    """Mean of 2×2 pixels, twice as wide. (B, C, H, W) -> (B, 2C or C, H/2, W/2).

    Args:
        in_channels: C.
        widen: whether the width doubles.
    """

    def __init__(self, in_channels: int, widen: bool = True) -> None:
        super().__init__()
        self.out_channels = 2 * in_channels if widen else in_channels
        self.pool = nn.AvgPool2d(2)
        self.widen = (
            ConvNormAct(in_channels, self.out_channels, 1, act="silu") if widen else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.widen(self.pool(x))


@MODULES.register(
    "FullPADTunnel",
    "FullPAD_Tunnel",
    family="neck_module",
    paper="arXiv:2506.17733",
    venue="arXiv 2025",
    example={"in_channels": [8, 8]},
    traits=Traits(),
)
class FullPADTunnel(nn.Module):
    """x + g · y with a learned scalar g. [(B, C, H, W), (B, C, H, W)] -> (B, C, H, W).

    Args:
        in_channels: widths of both maps, the same.
    """

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        if in_channels[0] != in_channels[1]:
            raise ValueError(f"both maps must have the same width, got {list(in_channels)}")
        self.out_channels = in_channels[0]
        self.gate = nn.Parameter(torch.tensor(0.0))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return maps[0] + self.gate * maps[1]
