"""State-space layers that several papers build on."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.ops.selective_scan import selective_scan


def dt_rank_of(channels: int) -> int:
    """⌈C / 16⌉, the usual rank of the projection to step sizes."""
    return math.ceil(channels / 16)


def initial_decay(channels: int, d_state: int) -> nn.Parameter:
    """log(1 … n) for every channel: the real S4D start. (C, n)."""
    steps = torch.arange(1, d_state + 1, dtype=torch.float32)
    return nn.Parameter(steps.log().repeat(channels, 1))


def initial_step_bias(*shape: int) -> Tensor:
    """Inverse softplus of step sizes drawn log-uniformly from 0.001 to 0.1."""
    steps = torch.empty(shape).uniform_(math.log(0.001), math.log(0.1)).exp()
    return steps + torch.log(-torch.expm1(-steps))


class DirectionalScan(nn.Module):
    """S6 over K sequences, each with its own weights. (B, K, D, L) -> (B, K, D, L).

    The weights are packed as in VMamba, Liu et al., NeurIPS 2024, arXiv:2401.10166.

    Args:
        channels: D.
        d_state: n, states of a channel.
        dt_rank: R of the projection to step sizes.
        directions: K.
    """

    def __init__(self, channels: int, d_state: int, dt_rank: int, directions: int = 4) -> None:
        super().__init__()
        self.d_state = d_state
        self.dt_rank = dt_rank
        x_bound, dt_bound = channels**-0.5, dt_rank**-0.5
        self.x_proj_weight = nn.Parameter(
            torch.empty(directions, dt_rank + 2 * d_state, channels).uniform_(-x_bound, x_bound)
        )
        self.dt_projs_weight = nn.Parameter(
            torch.empty(directions, channels, dt_rank).uniform_(-dt_bound, dt_bound)
        )
        self.dt_projs_bias = nn.Parameter(initial_step_bias(directions, channels))
        self.A_logs = initial_decay(directions * channels, d_state)
        self.Ds = nn.Parameter(torch.ones(directions * channels))

    def forward(self, x: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Scans each sequence by its own weights.

        Args:
            x: (B, K, D, L).
            prompt: (B, K, n, L), added to C; None: nothing is.
        """
        low, b, c = (self.x_proj_weight @ x).split([self.dt_rank, self.d_state, self.d_state], 2)
        if prompt is not None:
            c = c + prompt
        dt = self.dt_projs_weight @ low
        y = selective_scan(
            x.flatten(1, 2),
            dt.flatten(1, 2),
            -self.A_logs.exp(),
            b,
            c,
            self.Ds,
            self.dt_projs_bias.flatten(),
        )
        return y.view_as(x)


class MambaMixer(nn.Module):
    """The token mixer of Mamba, arXiv:2312.00752, figure 3. (B, L, C) -> (B, L, C).

    Args:
        dim: C.
        d_state: n, states of a channel.
        d_conv: taps of the causal convolution.
        expand: width inside, relative to C.
    """

    def __init__(self, dim: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        inner, rank = expand * dim, dt_rank_of(dim)
        self.widths = [rank, d_state, d_state]
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, sum(self.widths), bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(initial_step_bias(inner))
        self.A_log = initial_decay(inner, d_state)
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.in_proj(x).chunk(2, -1)
        past = self.conv.kernel_size[0] - 1
        u = F.silu(self.conv(F.pad(u.transpose(1, 2), (past, 0))))  # (B, E, L)
        low, b, c = self.x_proj(u.transpose(1, 2)).split(self.widths, -1)
        y = selective_scan(
            u,
            (low @ self.dt_proj.weight.T).transpose(1, 2),
            -self.A_log.exp(),
            b.transpose(1, 2)[:, None],
            c.transpose(1, 2)[:, None],
            self.D,
            self.dt_proj.bias,
        )
        return self.out_proj(y.transpose(1, 2) * F.silu(z))


def per_chunk(layer: Callable[[Tensor], Tensor], tokens: Tensor, count: int) -> Tensor:
    """The same layer for each of `count` chunks of the channels. (B, L, C) -> (B, L, C)."""
    chunks = tokens.unflatten(-1, (count, -1)).transpose(1, 2).flatten(0, 1)
    return layer(chunks).unflatten(0, (-1, count)).transpose(1, 2).flatten(2)
