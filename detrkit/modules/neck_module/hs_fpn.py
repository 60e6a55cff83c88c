"""HS-FPN: high-frequency and spatial perception FPN for tiny objects. Shi et al., AAAI 2025,
arXiv:2412.10116.

    HFP   m = high-pass(x);  y = GN(conv(x · m + x · σ(channels of m)))      section 3.2
    SDP   in each window: y = softmax(qᵀ k / √d) k + low                      section 3.3

The high-pass zeroes the low frequencies of a discrete cosine transform. The form here is that of
plug-in collections; the authors' detection-toolbox form has a ReLU behind every convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import matched
from detrkit.layers.windows import check_multiple, from_window_tokens, window_tokens
from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits

#: Groups of the norms and of the convolutions over channels.
GROUPS = 32


def cosine_basis(length: int, like: Tensor) -> Tensor:
    """(n, n): row k is the k-th function of the orthonormal DCT-II."""
    k = torch.arange(length, device=like.device, dtype=like.dtype)
    basis = torch.cos(math.pi / length * (k + 0.5) * k[:, None]) * (2 / length) ** 0.5
    basis[0] = length**-0.5
    return basis


def high_pass(x: Tensor, ratio: tuple[float, float]) -> Tensor:
    """A map without its lowest frequencies, in float32. (B, C, H, W) -> (B, C, H, W).

    Args:
        x: the map.
        ratio: share of the frequencies that are low, down the columns and along the rows.
    """
    with torch.autocast(x.device.type, enabled=False):
        exact = precise(x)
        height, width = x.shape[2:]
        rows = cosine_basis(height, exact)[: int(ratio[0] * height)]
        columns = cosine_basis(width, exact)[: int(ratio[1] * width)]
        low = rows @ exact @ columns.T
        return exact - rows.T @ low @ columns


@MODULES.register(
    family="neck_module",
    paper="arXiv:2412.10116",
    venue="AAAI 2025",
    example={"in_channels": 32},
    traits=Traits(
        onnx="the cosine basis depends on the map's size", float32="the cosine transform"
    ),
)
class HFP(nn.Module):
    """Strengthens what is fine in a map. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C, a multiple of 32.
        ratio: share of the frequencies that are filtered, down and along; None: nothing is, and
            places are weighed by a convolution instead.
        patch: the map is pooled to this before its channels are weighed.
    """

    def __init__(
        self,
        in_channels: int,
        ratio: Sequence[float] | None = (0.25, 0.25),
        patch: Sequence[int] = (8, 8),
    ) -> None:
        super().__init__()
        if in_channels % GROUPS:
            raise ValueError(f"in_channels must be a multiple of {GROUPS}, got {in_channels}")
        self.out_channels = in_channels
        self.ratio = None if ratio is None else (ratio[0], ratio[1])
        self.patch = (patch[0], patch[1])
        if ratio is None:
            self.place = nn.Conv2d(in_channels, 1, 1, bias=False)
        self.channel1 = nn.Conv2d(in_channels, in_channels, 1, groups=GROUPS)
        self.channel2 = nn.Conv2d(in_channels, in_channels, 1, groups=GROUPS)
        self.fuse = nn.Conv2d(
            in_channels, in_channels, 3, padding=1, groups=in_channels // 4, bias=False
        )
        self.norm = nn.GroupNorm(GROUPS, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.ratio is None:
            placed = x * self.place(x).sigmoid()
            pooled = [F.adaptive_max_pool2d(x, 1).relu(), F.adaptive_avg_pool2d(x, 1).relu()]
        else:
            fine = high_pass(x, self.ratio).to(x.dtype)
            placed = x * fine
            pooled = [
                pool(fine, self.patch).relu().sum((2, 3), keepdim=True)
                for pool in (F.adaptive_max_pool2d, F.adaptive_avg_pool2d)
            ]
        seen = self.channel1(pooled[0]) + self.channel1(pooled[1])
        weighed = x * self.channel2(seen).sigmoid()
        return self.norm(self.fuse(placed + weighed))


@MODULES.register(
    family="neck_module",
    paper="arXiv:2412.10116",
    venue="AAAI 2025",
    example={"in_channels": [32, 48], "out_channels": 32, "patch_size": [4, 4]},
    traits=Traits(multiple=4, sides=(1, 1)),
)
class SDP(nn.Module):
    """A fine map attends to an enlarged coarse one, window by window.

    [(B, C₀, H, W), (B, C₁, H, W)] -> (B, out_channels, H, W).

    Args:
        in_channels: C₀ of the fine map, C₁ of the coarse one, at the fine map's size.
        out_channels: a multiple of 32; None: C₀.
        patch_size: (h, w) of a window; in a pyramid, the size of the coarsest map.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int | None = None,
        patch_size: Sequence[int] = (10, 10),
    ) -> None:
        super().__init__()
        low, high = in_channels
        self.out_channels = c = low if out_channels is None else out_channels
        if c % GROUPS:
            raise ValueError(f"out_channels must be a multiple of {GROUPS}, got {c}")
        self.patch_size = (patch_size[0], patch_size[1])
        self.match_low, self.match_high = matched(low, c), matched(high, c)
        self.to_q = nn.Sequential(nn.Conv2d(c, c, 1, bias=False), nn.GroupNorm(GROUPS, c))
        self.to_k = nn.Sequential(nn.Conv2d(c, c, 1, bias=False), nn.GroupNorm(GROUPS, c))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        check_multiple(maps[0], self.patch_size)
        low, high = self.match_low(maps[0]), self.match_high(maps[1])
        q = window_tokens(self.to_q(low), self.patch_size)  # (B, windows, h·w, C)
        k = window_tokens(self.to_k(high), self.patch_size)
        found = F.scaled_dot_product_attention(q, k, k)
        return low + from_window_tokens(found, self.patch_size, (low.shape[2], low.shape[3]))
