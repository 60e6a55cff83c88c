"""SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design. Yun and Ro, CVPR 2024,
arXiv:2401.16456.

x1, x2 = split(x);   q, k, v = bn(conv(gn(x1)))
y = bn(conv(relu([softmax(qᵀ k / sqrt(d)) v, x2])))
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.activations import get_activation
from detrkit.layers.conv import ConvNormAct
from detrkit.layers.tokens import size_of
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="transformer",
    paper="arXiv:2401.16456",
    venue="CVPR 2024",
    example={"in_channels": 32, "qk_dim": 8},
    traits=Traits(),
)
class SHSA(nn.Module):
    """One head on a part of the channels. (B, C, H, W) -> (B, C, H, W).

    The last norm starts at zero: the module belongs on a residual branch.

    Args:
        in_channels: C.
        qk_dim: d, width of queries and keys.
        partial_channels: of x1; None: C / 4.67, as in the paper.
        act: activation before the last convolution.
    """

    def __init__(
        self,
        in_channels: int,
        qk_dim: int = 16,
        partial_channels: int | None = None,
        act: str = "relu",
    ) -> None:
        super().__init__()
        part = int(in_channels / 4.67) if partial_channels is None else partial_channels
        if not 1 <= part < in_channels:
            raise ValueError(f"partial_channels must be from 1 to {in_channels - 1}, got {part}")
        self.out_channels = in_channels
        self.qk_dim = qk_dim
        self.part = part
        self.norm = nn.GroupNorm(1, part)
        self.qkv = ConvNormAct(part, 2 * qk_dim + part, 1)
        self.act = get_activation(act)
        self.proj = ConvNormAct(in_channels, in_channels, 1)
        nn.init.zeros_(self.proj.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = x.split([self.part, x.shape[1] - self.part], dim=1)
        qkv = self.qkv(self.norm(first)).flatten(2)
        q, k, v = qkv.split([self.qk_dim, self.qk_dim, self.part], dim=1)  # (B, …, N)
        weights = (q.transpose(1, 2) @ k * self.qk_dim**-0.5).softmax(-1)  # (B, N, N)
        attended = (v @ weights.transpose(1, 2)).unflatten(2, size_of(x))
        return self.proj(self.act(torch.cat([attended, rest], dim=1)))
