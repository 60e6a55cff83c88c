"""MaIR: A Locality- and Continuity-Preserving Mamba for Image Restoration. Li et al., CVPR 2025,
arXiv:2412.20066.

x, z = W_in X                                 x <- silu dwconv x
y_k  = S6_k(scan_k x)                         nested S-shaped orders of four views of the map
g    = σ(W [mean y_1 … mean y_4])             sequence shuffle attention, for each channel
out  = W_out (LN(sum_k g_k y_k) · silu z)

The orders are made for every size met; the authors' code fixes it.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.layers.norm import LayerNorm2d
from detrkit.layers.size_cache import SizeCache
from detrkit.layers.state_space import DirectionalScan, dt_rank_of
from detrkit.layers.tokens import size_of
from detrkit.ops.cross_scan import along, placed
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="mamba",
    paper="arXiv:2412.20066",
    venue="CVPR 2025",
    example={"in_channels": 16, "d_state": 4, "scan_len": 4, "shifted": True},
    traits=Traits(float32="the scan"),
)
class VMM(nn.Module):
    """Scans along snakes within narrow stripes, gates, merges. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        d_state: n, states of a channel.
        ssm_ratio: width inside, relative to C.
        scan_len: width of a stripe, in pixels.
        shifted: whether the first stripe has half that width; for every other block.

    Raises:
        ValueError: scan_len is too narrow.
    """

    def __init__(
        self,
        in_channels: int,
        d_state: int = 16,
        ssm_ratio: float = 2.0,
        *,
        scan_len: int = 8,
        shifted: bool = False,
    ) -> None:
        super().__init__()
        narrowest = 2 if shifted else 1
        if scan_len < narrowest:
            raise ValueError(f"scan_len must be at least {narrowest}, got {scan_len}")
        self.out_channels = in_channels
        self.stripe = scan_len
        self.first = scan_len // 2 if shifted else scan_len
        self.orders = SizeCache()
        inner = int(ssm_ratio * in_channels)
        self.in_proj = nn.Conv2d(in_channels, 2 * inner, 1, bias=False)
        self.conv = depthwise(inner, 3)
        self.scan = DirectionalScan(inner, d_state, dt_rank_of(in_channels))
        self.gate = nn.Conv2d(4 * inner, 4 * inner, 1, groups=inner)
        self.norm = LayerNorm2d(inner, eps=1e-5)
        self.out_proj = nn.Conv2d(inner, in_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        size = size_of(x)
        orders = self.orders.get(
            (size, x.device), lambda: snake_orders(*size, self.stripe, self.first).to(x.device)
        )
        x, z = self.in_proj(x).chunk(2, 1)
        sequences = self.scan(along(F.silu(self.conv(x)), orders))
        y = self.merge(placed(sequences, orders.argsort(-1))).unflatten(2, size)
        return self.out_proj(self.norm(y) * F.silu(z))

    def merge(self, y: Tensor) -> Tensor:
        """Sequence shuffle attention and sum. (B, 4, E, L) -> (B, E, L)."""
        means = y.mean(3).transpose(1, 2).flatten(1)  # the four of a channel side by side
        gate = self.gate(means[..., None, None]).sigmoid().flatten(1)
        return (y * gate.unflatten(1, (-1, 4)).transpose(1, 2)[..., None]).sum(1)


def snake_orders(height: int, width: int, stripe: int, first: int) -> Tensor:
    """Of the map, the map turned by 180°, and both transposed. (4, H·W) pixels row by row."""
    pixels = np.arange(height * width).reshape(height, width)
    turned = pixels[::-1, ::-1]
    views = (pixels, turned, pixels.T, turned.T)
    return torch.from_numpy(np.stack([snake(view, stripe, first) for view in views]))


def snake(grid: np.ndarray, stripe: int, first: int) -> np.ndarray:
    """The entries of (H, W) stripe after stripe: down, up, …; within, rows there and back.

    Args:
        grid: (H, W).
        stripe: columns of a stripe; the last may have fewer.
        first: columns of the first one.
    """
    width = grid.shape[1]
    parts = []
    for index, (left, right) in enumerate(pairwise([0, *range(first, width, stripe), width])):
        rows = grid[:: -1 if index % 2 else 1, left:right].copy()
        rows[1::2] = rows[1::2, ::-1]
        parts.append(rows.ravel())
    return np.concatenate(parts)
