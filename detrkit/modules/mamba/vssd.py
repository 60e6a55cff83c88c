"""VSSD: Vision Mamba with Non-Causal State Space Duality. Shi et al., ICCV 2025, arXiv:2407.18559.

z, (V, B, C), dt = W_in LN x                  V, B, C <- silu dwconv (V, B, C)
a_t  = softplus(dt_t + bias) · exp A_log      for each head
S    = sum_t B_t ⊗ a_t V_t                    over all pixels, eq. 12
y_t  = C_t S + D V_t
out  = W_out (LN y · z)

S is a sum, not a mean: it grows with H·W, and is formed in float32. The causal mode of the authors'
code is left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.layers.drop_path import DropPath
from detrkit.layers.mlp import MLP
from detrkit.layers.state_space import initial_step_bias
from detrkit.layers.tokens import from_tokens, size_of, tokens_of
from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits


class NonCausalSSD(nn.Module):
    """State-space duality in which every pixel sees all others. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        num_heads: h, dividing `expand` · C.
        expand: width inside, relative to C.
        num_groups: heads j and j + g share B and C; divides h.
        d_state: n, states of a channel.

    Raises:
        ValueError: the heads do not divide the width, or the groups the heads.
    """

    def __init__(
        self, channels: int, num_heads: int, expand: int, num_groups: int, d_state: int
    ) -> None:
        super().__init__()
        inner = expand * channels
        if inner % num_heads:
            raise ValueError(f"num_heads must divide {inner} channels, got {num_heads}")
        if num_heads % num_groups:
            raise ValueError(f"ssd_ngroups must divide {num_heads} heads, got {num_groups}")
        self.num_heads = num_heads
        self.num_groups = num_groups
        self.widths = [inner, num_groups * d_state, num_groups * d_state]
        scanned = sum(self.widths)
        self.in_widths = [inner, scanned, num_heads]
        self.in_proj = nn.Linear(channels, sum(self.in_widths), bias=False)
        self.conv = depthwise(scanned, 3)
        self.dt_bias = nn.Parameter(initial_step_bias(num_heads))
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(num_heads))
        self.norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        size = size_of(x)
        z, scanned, dt = self.in_proj(tokens_of(x)).split(self.in_widths, -1)
        scanned = F.silu(self.conv(from_tokens(scanned, size)))
        v, b, c = tokens_of(scanned).split(self.widths, -1)
        y = self.mix(v, b, c, dt).to(z.dtype)
        return from_tokens(self.out_proj(self.norm(y) * z), size)

    def mix(self, v: Tensor, b: Tensor, c: Tensor, dt: Tensor) -> Tensor:
        """(B, L, E), twice (B, L, g·n), (B, L, h) -> (B, L, E) in float32."""
        per_group = (self.num_heads // self.num_groups, self.num_groups)
        with torch.autocast(v.device.type, enabled=False):
            v, b, c, dt = map(precise, (v, b, c, dt))
            a = F.softplus(dt + self.dt_bias) * self.A_log.exp()
            v = v.unflatten(-1, (self.num_heads, -1))
            weighted = (a[..., None] * v).unflatten(2, per_group)  # (B, L, h/g, g, p)
            b, c = (t.unflatten(-1, (self.num_groups, -1)) for t in (b, c))
            state = torch.einsum("blgn,blmgp->bmgnp", b, weighted)
            y = torch.einsum("blgn,bmgnp->blmgp", c, state).flatten(2, 3)
            return (y + self.D[:, None] * v).flatten(2)


@MODULES.register(
    family="mamba",
    paper="arXiv:2407.18559",
    venue="ICCV 2025",
    example={"in_channels": 16, "num_heads": 4, "ssd_ngroups": 2, "d_state": 4},
    traits=Traits(float32="sums over all pixels"),
)
class VMAMBA2Block(nn.Module):
    """Non-causal state-space duality, then an MLP. (B, C, H, W) -> (B, C, H, W).

    A depthwise convolution with a shortcut stands before each, for the position.

    Args:
        in_channels: C.
        num_heads, d_state: of the mixer.
        mlp_ratio: width inside the MLP, relative to C.
        ssd_expansion: width inside the mixer, relative to C.
        ssd_ngroups: groups of heads with their own B and C.
        drop_path: rate at which training leaves a branch out.

    Raises:
        ValueError: num_heads does not divide the width of the mixer, or ssd_ngroups num_heads.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        *,
        ssd_expansion: int = 2,
        ssd_ngroups: int = 1,
        d_state: int = 64,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.positions = nn.ModuleList(depthwise(in_channels, 3) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(in_channels) for _ in range(2))
        self.mixer = NonCausalSSD(in_channels, num_heads, ssd_expansion, ssd_ngroups, d_state)
        self.mlp = MLP(in_channels, int(in_channels * mlp_ratio), in_channels, 2, act="gelu")
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        size = size_of(x)
        x = x + self.positions[0](x)
        x = x + self.drop(self.mixer(from_tokens(self.norms[0](tokens_of(x)), size)))
        x = x + self.positions[1](x)
        return x + self.drop(from_tokens(self.mlp(self.norms[1](tokens_of(x))), size))
