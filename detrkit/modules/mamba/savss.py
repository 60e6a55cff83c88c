"""SCSegamba: Lightweight Structure-Aware Vision Mamba for Crack Segmentation in Structures. Liu et
al., CVPR 2025, arXiv:2503.01113.

u, z = W_in X                                 u <- silu bottleneck(u), 1×1, depthwise 3×3, 1×1
dt, B, C = W_x u                              of the pixels row by row, for all four orders
y    = sum_k back_k S6(scan_k u, B + direction of the move that led to each step)
out  = W_out (y · silu z)

As in the authors' code only u is reordered, and the bias of dt counts twice. Their inverse of the
third order is filled with one index, a slip; here it is the inverse.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.layers.size_cache import SizeCache
from detrkit.layers.state_space import dt_rank_of, initial_decay, initial_step_bias
from detrkit.layers.tokens import from_tokens, size_of, tokens_of
from detrkit.ops.cross_scan import along, placed
from detrkit.ops.selective_scan import selective_scan
from detrkit.registry import MODULES, Traits

#: Codes of a step: the first, then by the move (down, right) that led to it.
START, RIGHT, LEFT, UP, DOWN = range(5)
MOVES = {(0, 1): RIGHT, (0, -1): LEFT, (-1, 0): UP, (1, 0): DOWN}

Path = list[tuple[int, int]]


@MODULES.register(
    family="mamba",
    paper="arXiv:2503.01113",
    venue="CVPR 2025",
    example={"in_channels": 16, "d_state": 4, "layer_scale": 0.5},
    traits=Traits(float32="the scan"),
)
class SAVSS(nn.Module):
    """Scans along rows, columns and both diagonals, by snakes. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        d_state: n, states of a channel.
        expand: width inside, relative to C; expand · C at least 16.
        layer_scale: initial factor of the output for each channel; None: there is none.

    Raises:
        ValueError: fewer than 16 channels inside.
    """

    def __init__(
        self,
        in_channels: int,
        d_state: int = 16,
        expand: int = 2,
        *,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        inner, rank = expand * in_channels, dt_rank_of(in_channels)
        if inner < 16:
            raise ValueError(f"expand · in_channels must be at least 16, got {inner}")
        self.out_channels = in_channels
        self.orders = SizeCache()
        self.widths = [rank, d_state, d_state]
        self.in_proj = nn.Linear(in_channels, 2 * inner, bias=False)
        self.bottleneck = nn.Sequential(
            nn.Conv2d(inner, inner // 16, 1),
            depthwise(inner // 16, 3, bias=False),
            nn.Conv2d(inner // 16, inner, 1, bias=False),
        )
        self.x_proj = nn.Linear(inner, sum(self.widths), bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(initial_step_bias(inner))
        self.directions = nn.Parameter(nn.init.trunc_normal_(torch.empty(5, d_state), std=0.02))
        self.A_log = initial_decay(inner, d_state)
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, in_channels, bias=False)
        self.scale = (
            None if layer_scale is None else nn.Parameter(torch.full((in_channels,), layer_scale))
        )

    def forward(self, x: Tensor) -> Tensor:
        size = size_of(x)
        u, z = self.in_proj(tokens_of(x)).chunk(2, -1)
        y = self.scanned(F.silu(self.bottleneck(from_tokens(u, size))))
        out = self.out_proj(y.transpose(1, 2) * F.silu(z))
        return from_tokens(out if self.scale is None else out * self.scale, size)

    def scanned(self, u: Tensor) -> Tensor:
        """The sum of the four scans, row by row. (B, E, H, W) -> (B, E, L)."""
        size = size_of(u)
        orders, codes = self.orders.get(
            (size, u.device), lambda: tuple(t.to(u.device) for t in snakes(*size))
        )
        low, b, c = self.x_proj(tokens_of(u)).split(self.widths, -1)
        b = b.transpose(1, 2)[:, None] + self.directions[codes].transpose(1, 2)  # (B, 4, n, L)
        c = c.transpose(1, 2)[:, None].expand_as(b)
        y = selective_scan(
            along(u, orders).flatten(1, 2),
            self.dt_proj(low).transpose(1, 2).repeat(1, 4, 1),
            -self.A_log.exp().repeat(4, 1),
            b,
            c,
            self.D.repeat(4),
            self.dt_proj.bias.repeat(4),
        )
        return placed(y.unflatten(1, (4, -1)), self.places(orders)).sum(1)

    def places(self, orders: Tensor) -> Tensor:
        """The step at which each pixel is visited: (4, L) -> (4, L)."""
        return orders.argsort(-1)


def snakes(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pixels, counted row by row, and codes of the four orders: two (4, H·W)."""
    rows: Path = []  # from the bottom
    for i in reversed(range(height)):
        rows += [(i, j) for j in (range(width) if i % 2 else reversed(range(width)))]
    columns: Path = []
    for j in range(width):
        columns += [(i, j) for i in (reversed(range(height)) if j % 2 else range(height))]
    diagonals: Path = []
    for s in range(height + width - 1):
        rising = [(i, s - i) for i in range(max(0, s - width + 1), min(s, height - 1) + 1)]
        diagonals += reversed(rising) if s % 2 else rising
    mirrored = [(i, width - 1 - j) for i, j in diagonals]
    paths = (rows, columns, diagonals, mirrored)
    orders = torch.tensor([[i * width + j for i, j in path] for path in paths])
    straight = [[START, *map(_move, pairwise(path))] for path in (rows, columns)]
    slanted = [START, *map(_next_on_diagonal, diagonals[:-1])]
    return orders, torch.tensor([*straight, slanted, slanted])


def _move(step: tuple[tuple[int, int], tuple[int, int]]) -> int:
    (i, j), (down, right) = step
    return MOVES[down - i, right - j]


def _next_on_diagonal(pixel: tuple[int, int]) -> int:
    """Steps along a diagonal count as one of their two parts."""
    i, j = pixel
    if (i + j) % 2:
        return DOWN if j == 0 else RIGHT
    return RIGHT if i == 0 else DOWN
