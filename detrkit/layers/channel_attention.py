"""Attention among the channels of a head, with cost linear in the number of pixels.

XCiT, El-Nouby et al., NeurIPS 2021, arXiv:2106.09681; Restormer, Zamir et al., CVPR 2022,
arXiv:2111.09881. Channels are head-major: channel = head · c + j.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.ops.precision import precise


def heads_of(x: Tensor, num_heads: int) -> Tensor:
    """(B, M·c, H, W) -> (B, M, c, H·W)."""
    return x.flatten(2).unflatten(1, (num_heads, -1))


def from_heads(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Inverse of `heads_of` for a map of `size` (H, W)."""
    return x.flatten(1, 2).unflatten(2, size)


def channel_similarity(q: Tensor, k: Tensor) -> Tensor:
    """Cosines of every two channels of a head: two (B, M, c, N) -> (B, M, c, c)."""
    return unit_length(q) @ unit_length(k).transpose(-2, -1)


def unit_length(x: Tensor) -> Tensor:
    """`x` / its length along the last dimension; zeros stay zeros, in half precision too."""
    return F.normalize(precise(x), dim=-1).to(x.dtype)


class ChannelAttention(nn.Module):
    """softmax(t · cos(q, k)) v over the channels of each head. Three (B, C, H, W) -> (B, C, H, W).

    Args:
        num_heads: M, each with a learnt temperature t.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        size = (v.shape[2], v.shape[3])
        q, k, v = (heads_of(t, self.num_heads) for t in (q, k, v))
        weights = (channel_similarity(q, k) * self.temperature).softmax(-1)
        return from_heads(weights @ v, size)


class ConvQKV(nn.Sequential):
    """Queries, keys and values of neighbourhoods: 1x1, then depthwise. (B, C, H, W) -> (B, 3C, …).

    Args:
        in_channels: C.
        bias: of both convolutions.
        dilation: of the depthwise 3x3 convolution.
    """

    def __init__(self, in_channels: int, bias: bool = False, dilation: int = 1) -> None:
        width = 3 * in_channels
        super().__init__(
            nn.Conv2d(in_channels, width, 1, bias=bias),
            depthwise(width, 3, dilation=dilation, bias=bias),
        )


def check_heads(channels: int, num_heads: int) -> None:
    """Whether heads share the channels evenly.

    Raises:
        ValueError: they do not.
    """
    if channels % num_heads:
        raise ValueError(f"num_heads must divide {channels} channels, got {num_heads}")
