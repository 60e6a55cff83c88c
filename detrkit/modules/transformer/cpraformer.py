"""Cross Paradigm Representation and Alignment Transformer for Image Deraining (CPRAformer).
Zou et al., ACM MM 2025, arXiv:2504.16455.

[y, z] = conv(x)
d = spatial branch of y: conv(gelu(t · softmax(mean(t)))),  t = conv(conv3x3(y))
a = channel attention of z that keeps the K largest scores of a row
a, d = a · σ(s(d)), d · σ(c(mean(a)))                       exchange of gates
out = Re ifft(scale · Re F + shift, scale' · Im F),  F = fft2(conv([a, d]))

K = d · mean(gate(z)), rounded down, of each image; at least 1. The authors' K is of the whole
batch and can be 0. It is an integer: the gate gets no gradient, as published, and is fixed here.

The inverse of the real part of a spectrum is the even part of the map, (x(n) + x(-n)) / 2, and of
the imaginary part the odd one; a constant is a peak at the first pixel: no transform is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.channel_attention import (
    ConvQKV,
    channel_similarity,
    check_heads,
    from_heads,
    heads_of,
)
from detrkit.layers.conv import ConvNormAct
from detrkit.layers.tokens import size_of
from detrkit.registry import MODULES, Traits


@MODULES.register(
    "CPIA_SA",
    "SPC_SA",
    family="transformer",
    paper="arXiv:2504.16455",
    venue="ACM MM 2025",
    example={"in_channels": 32, "num_heads": 2},
    traits=Traits(),
)
class CPIASelfAttention(nn.Module):
    """Sparse channel attention and a spatial branch gate each other. (B, C, H, W) -> (B, C, H, W).

    Training needs at least two images in a batch: one gate norms means of whole maps.

    Args:
        in_channels: C, a multiple of 16 and of 2 · num_heads.
        num_heads: of the channel attention.
        bias: of queries, keys, values and the convolution of both branches.
    """

    def __init__(self, in_channels: int, num_heads: int = 8, bias: bool = False) -> None:
        super().__init__()
        if in_channels % 16:
            raise ValueError(f"CPIA_SA needs a multiple of 16 channels, got {in_channels}")
        check_heads(in_channels, 2 * num_heads)
        self.out_channels = in_channels
        half = in_channels // 2
        self.project_in = nn.Conv2d(in_channels, in_channels, 1)
        self.spatial = _SpatialBranch(half)
        self.channel = _SparseChannelAttention(half, num_heads, bias)
        self.spatial_gate = nn.Sequential(
            ConvNormAct(half, in_channels // 16, 1, bias=True, act="gelu"),
            nn.Conv2d(in_channels // 16, 1, 1),
            nn.Sigmoid(),
        )
        self.channel_gate = nn.Sequential(
            ConvNormAct(half, in_channels // 8, 1, bias=True, act="gelu"),
            nn.Conv2d(in_channels // 8, half, 1),
            nn.Sigmoid(),
        )
        self.project_out = nn.Conv2d(in_channels, in_channels, 1, bias=bias)
        self.spectrum = _SpectrumAffine(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.project_in(x).chunk(2, dim=1)
        detail, attended = self.spatial(y), self.channel(z)
        of_channel = self.channel_gate(attended.mean((2, 3), keepdim=True))
        both = [attended * self.spatial_gate(detail), detail * of_channel]
        return self.spectrum(self.project_out(torch.cat(both, dim=1)))


class _SpatialBranch(nn.Module):
    """conv(gelu(t · softmax(mean(t)))). (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=channels),
            nn.Conv2d(2 * channels, 2 * channels, 1),
        )
        self.narrow = nn.Sequential(nn.GELU(), nn.Conv2d(2 * channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.widen(x)
        return self.narrow(x * x.mean((2, 3), keepdim=True).softmax(1))


class _SparseChannelAttention(nn.Module):
    """Channel attention with as many scores in a row as a gate says. (B, C, H, W) -> (B, C, H, W).

    Attributes:
        gate: fixed, see above.
    """

    def __init__(self, channels: int, num_heads: int, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = ConvQKV(channels, bias)
        self.gate = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 1),
            nn.ReLU(),
            nn.Conv2d(channels // 2, 1, 1),
            nn.Sigmoid(),
        ).requires_grad_(False)
        self.weights = nn.ParameterList(nn.Parameter(torch.tensor([0.2])) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads_of(t, self.num_heads) for t in self.qkv(x).chunk(3, dim=1))
        scores = channel_similarity(q, k) * self.temperature  # (B, M, c, c)
        channels = scores.shape[-1]
        kept = (channels * self.share(self.gate(x))).long().clamp(min=1)  # (B,)
        index = (kept - 1)[:, None, None, None].expand(-1, *scores.shape[1:3], 1)
        least = scores.sort(dim=-1, descending=True).values.gather(-1, index)
        scores = scores.masked_fill(scores < least, -torch.inf)
        out = scores.softmax(-1) @ v * sum(self.weights)
        return from_heads(out, size_of(x))

    def share(self, gate: Tensor) -> Tensor:
        """(B,): share of the scores that each image keeps."""
        return gate.mean((1, 2, 3))


class _SpectrumAffine(nn.Module):
    """A scale and a shift for the real and the imaginary part of each channel's spectrum.

    Attributes:
        weight: (2C, 1, 1, 1), real parts first. Starts at 1.
        bias: (2C,); that of the imaginary parts has no effect on the real part of the inverse.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2 * channels, 1, 1, 1))
        self.bias = nn.Parameter(torch.zeros(2 * channels))

    def forward(self, x: Tensor) -> Tensor:
        height, width = size_of(x)
        of_even, of_odd = self.weight[:, 0].chunk(2)
        peak = self.bias[: x.shape[1], None, None] * _first_pixel(height, width, x)
        mirrored = x.flip((2, 3)).roll((1, 1), (2, 3))
        return of_even * (x + mirrored) / 2 + of_odd * (x - mirrored) / 2 + peak


def _first_pixel(height: int, width: int, like: Tensor) -> Tensor:
    """(height, width), 1 at the first pixel and 0 elsewhere."""
    rows, columns = (torch.arange(n, device=like.device) == 0 for n in (height, width))
    return (rows[:, None] & columns).to(like.dtype)
