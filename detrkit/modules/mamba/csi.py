"""SAMamba: Adaptive State Space Modeling with Hierarchical Vision for Infrared Small Target
Detection. Xu et al., Information Fusion 2025, arXiv:2505.23214.

t_j = chunk j of the channels of LN X                 j = 1 … 4, the same weights
y_j = MLP LN Mamba t_j + s · t_j
Y   = silu BN W interleave(y_1 … y_4)

`GatedCSI` is the module of the authors' repository around it; `CSI` alone circulates:

x = relu BN W X,   out = relu BN W (x + pixel gate(channel gate(CSI x)))
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.layers.mlp import MLP
from detrkit.layers.state_space import MambaMixer, per_chunk
from detrkit.layers.tokens import from_tokens, size_of, tokens_of
from detrkit.modules.featurefusion.mpca import eca_kernel
from detrkit.registry import MODULES, Traits


class ChunkMixer(nn.Module):
    """MLP LN Mamba t + s · t. (B, L, C) -> (B, L, C).

    Args:
        dim: C.
        d_state, d_conv, expand: of the Mamba mixer.
    """

    def __init__(self, dim: int, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        self.mixer = MambaMixer(dim, d_state, d_conv, expand)
        self.norm = nn.LayerNorm(dim)
        self.mlp = MLP(dim, 4 * dim, dim, 2, act="gelu")
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mlp(self.norm(self.mixer(tokens))) + self.scale * tokens


@MODULES.register(
    family="mamba",
    paper="arXiv:2505.23214",
    venue="Information Fusion 2025",
    example={"in_channels": 16, "d_state": 4},
    traits=Traits(float32="the scan"),
)
class CSI(nn.Module):
    """Mamba over four chunks of the channels, mixed afterwards. (B, C, H, W) -> (B, C', H, W).

    Args:
        in_channels: C, a multiple of 4.
        out_channels: C'; None keeps C.
        d_state, d_conv, expand: of the Mamba mixer.
        bias, act: of the last convolution.

    Raises:
        ValueError: C is no multiple of 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        bias: bool = False,
        act: str = "silu",
    ) -> None:
        super().__init__()
        if in_channels % 4:
            raise ValueError(f"in_channels must be a multiple of 4, got {in_channels}")
        self.out_channels = in_channels if out_channels is None else out_channels
        self.norm = nn.LayerNorm(in_channels)
        self.mixer = ChunkMixer(in_channels // 4, d_state, d_conv, expand)
        self.project = ConvNormAct(in_channels, self.out_channels, 1, bias=bias, act=act)

    def forward(self, x: Tensor) -> Tensor:
        mixed = per_chunk(self.mixer, self.norm(tokens_of(x)), 4)
        interleaved = mixed.unflatten(2, (4, -1)).transpose(2, 3).flatten(2)
        return self.project(from_tokens(interleaved, size_of(x)))


@MODULES.register(
    family="mamba",
    paper="arXiv:2505.23214",
    venue="Information Fusion 2025",
    example={"in_channels": 16, "out_channels": 24, "d_state": 4},
    traits=Traits(float32="the scan"),
)
class GatedCSI(nn.Module):
    """`CSI`, a channel gate and a pixel gate, and a shortcut. (B, C, H, W) -> (B, C', H, W).

    Args:
        in_channels: C.
        out_channels: C', a multiple of 4; None keeps C.
        d_state, d_conv, expand: of the Mamba mixer.
        dropout: rate at which training leaves out channels of the gated branch.

    Raises:
        ValueError: C' is no multiple of 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        width = in_channels if out_channels is None else out_channels
        self.out_channels = width
        self.skip = ConvNormAct(in_channels, width, 1, bias=True, act="relu")
        self.interact = CSI(
            width, d_state=d_state, d_conv=d_conv, expand=expand, bias=True, act="relu"
        )
        taps = eca_kernel(width)
        self.channel_gate = nn.Conv1d(1, 1, taps, padding=taps // 2, bias=False)
        self.pixel_gate = nn.Conv2d(2, 1, 7, padding=3)
        self.dropout = nn.Dropout2d(dropout)
        self.project = ConvNormAct(width, width, 1, bias=True, act="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.skip(x)
        y = self.interact(x)
        means = y.mean((2, 3))[:, None]
        y = y * self.channel_gate(means).sigmoid().transpose(1, 2)[..., None]
        pooled = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
        y = self.dropout(y * self.pixel_gate(pooled).sigmoid())
        return self.project(x + y)
