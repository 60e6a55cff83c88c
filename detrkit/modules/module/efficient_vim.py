"""EfficientViM: Efficient Vision Mamba with Hidden State Mixer based State Space Duality.
Lee et al., CVPR 2025, arXiv:2411.15241.

[B, C, Δ] = DW3×3(W x),   A = softmax over pixels of (Δ + a)
h = x (A · B)ᵀ,   [h', z] = W h,   y = (W (h' · silu(z) + D h')) C        eq. 7–9, HSM-SSD
x <- (1 - α_i) x + α_i f_i(x)    f: DW3×3, HSM-SSD behind a norm, DW3×3, feed-forward

The authors' code takes square maps only; here height and width are known.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.layers.depthwise import depthwise
from detrkit.layers.norm import LayerNorm2d
from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="module",
    paper="arXiv:2411.15241",
    venue="CVPR 2025",
    example={"in_channels": 16, "state_dim": 8},
    traits=Traits(float32="a softmax over all pixels"),
)
class EfficientViMBlock(nn.Module):
    """A state space whose hidden states are mixed, between convolutions. (B, C, H, W) -> same.

    Args:
        in_channels: C.
        mlp_ratio: width of the feed-forward part, relative to C.
        ssd_expand: width of the mixed hidden states, relative to C.
        state_dim: N, number of hidden states.
    """

    def __init__(
        self,
        in_channels: int,
        mlp_ratio: float = 4.0,
        ssd_expand: float = 1.0,
        state_dim: int = 64,
    ) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        hidden = int(c * mlp_ratio)
        convs = [ConvNormAct(c, c, 3, groups=c) for _ in range(2)]
        narrow = ConvNormAct(hidden, c, 1)
        mixer = HSMSSD(c, int(c * ssd_expand), state_dim)
        self.steps = nn.ModuleList(
            [
                convs[0],
                nn.Sequential(LayerNorm2d(c, eps=1e-5), mixer),
                convs[1],
                nn.Sequential(ConvNormAct(c, hidden, 1, act="relu"), narrow),
            ]
        )
        for last in (*convs, narrow):
            nn.init.zeros_(last.norm.weight)
        self.alpha = nn.Parameter(torch.full((4, c), 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.alpha.sigmoid()[:, :, None, None]
        for share, step in zip(shares, self.steps, strict=True):
            x = (1 - share) * x + share * step(x)
        return x


class HSMSSD(nn.Module):
    """State space duality with mixed hidden states. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        hidden_channels: E, of the mixed states.
        state_dim: N.
    """

    def __init__(self, channels: int, hidden_channels: int, state_dim: int) -> None:
        super().__init__()
        self.bcdt = nn.Sequential(
            nn.Conv2d(channels, 3 * state_dim, 1, bias=False),
            depthwise(3 * state_dim, 3, bias=False),
        )
        self.a = nn.Parameter(torch.empty(state_dim).uniform_(1, 16))
        self.hz = nn.Conv1d(channels, 2 * hidden_channels, 1, bias=False)
        self.out = nn.Conv1d(hidden_channels, channels, 1, bias=False)
        self.d = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, dt = self.bcdt(x).flatten(2).chunk(3, dim=1)  # (B, N, L) each
        # one value more for all pixels leaves a softmax over them as it is: `a` only keeps the
        # files of the authors loadable
        a = (precise(dt) + self.a[:, None]).softmax(-1).to(x.dtype)
        h, z = self.hz(x.flatten(2) @ (a * b).transpose(1, 2)).chunk(2, dim=1)
        mixed = self.out(h * F.silu(z) + self.d * h)  # (B, C, N)
        return (mixed @ c).unflatten(2, x.shape[2:])
