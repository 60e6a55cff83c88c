"""Frequency-Aware Transformer for Learned Image Compression. Li et al., ICLR 2024,
arXiv:2310.16387.

t = W2 gelu(W1 x)
y = irfft2(w · rfft2(t)) in tiles, w learnt per frequency and channel

Maps are padded with zeros to whole tiles.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.tile_filter import filter_tiles
from detrkit.layers.windows import padded
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="mlp",
    paper="arXiv:2310.16387",
    venue="ICLR 2024",
    example={"in_channels": 16, "hidden_channels": 32},
    traits=Traits(float32="the transform of the tiles"),
)
class FMFFN(nn.Module):
    """A feed-forward net, then a filter of each tile's spectrum. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        hidden_channels: None: 4 · C.
        out_channels: None: C.
        window_size: side of the tiles; even. The paper's is 16.

    Attributes:
        weight: (s, s // 2 + 1, out, 2), real and imaginary part; starts at 1.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | None = None,
        out_channels: int | None = None,
        window_size: int = 4,
    ) -> None:
        super().__init__()
        if window_size < 2 or window_size % 2:
            raise ValueError(f"window_size must be even, got {window_size}")
        self.out_channels = out_channels or in_channels
        self.window_size = window_size
        hidden = hidden_channels or 4 * in_channels
        self.fc1 = nn.Conv2d(in_channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, self.out_channels, 1)
        self.weight = nn.Parameter(
            torch.zeros(window_size, window_size // 2 + 1, self.out_channels, 2)
        )
        nn.init.ones_(self.weight[..., 0])

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = padded(self.fc2(F.gelu(self.fc1(x))), self.window_size)
        real, imaginary = self.weight.permute(3, 2, 0, 1).unbind(0)
        return filter_tiles(x, self.window_size, real, imaginary)[:, :, :height, :width]
