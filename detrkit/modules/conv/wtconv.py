"""Wavelet Convolutions for Large Receptive Fields. Finder et al., ECCV 2024, arXiv:2407.05848.

X_l      = WT(X_LL of l - 1)
Y_l      = s_l · conv_k(X_l), depthwise
Z_l      = IWT(Y_LL + Z_l+1, Y_LH, Y_HL, Y_HH)
y        = s_0 · conv_k(X) + Z_1

Sides that are odd get a row or column of zeros before each analysis, and lose it afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.ops.wavelets import analyse, even, synthesise, wavelet_bank
from detrkit.registry import MODULES, Traits


class ScaledConv(nn.Module):
    """A depthwise convolution and a learnt factor per channel. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, kernel_size: int, bias: bool, scale: float) -> None:
        super().__init__()
        self.conv = depthwise(channels, kernel_size, bias=bias)
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.conv(x)


@MODULES.register(
    family="conv",
    paper="arXiv:2407.05848",
    venue="ECCV 2024",
    example={"in_channels": 8, "wt_levels": 2},
    traits=Traits(),
)
class WTConv2d(nn.Module):
    """Small kernels on several levels of a wavelet. (B, C, H, W) -> (B, C, H/s, W/s).

    Depthwise, without norm and activation. Sides should stay above 2^levels.

    Args:
        in_channels: C.
        kernel_size: k, odd.
        stride: s; every s-th pixel of the result.
        wt_levels: number of analyses one after another.
        wt_type: "haar", or "dbN".

    Raises:
        ValueError: k is even, or there is no such wavelet.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 5,
        stride: int = 1,
        *,
        wt_levels: int = 1,
        wt_type: str = "db1",
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.out_channels = in_channels
        self.stride = stride
        bank = wavelet_bank(wt_type).repeat(in_channels, 1, 1, 1)
        self.analysis = nn.Parameter(bank, requires_grad=False)
        self.synthesis = nn.Parameter(bank.clone(), requires_grad=False)
        self.base = ScaledConv(in_channels, kernel_size, bias=True, scale=1.0)
        self.levels = nn.ModuleList(
            ScaledConv(4 * in_channels, kernel_size, bias=False, scale=0.1)
            for _ in range(wt_levels)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x) + self._level(x, 0)
        return out[..., :: self.stride, :: self.stride] if self.stride > 1 else out

    def _level(self, x: Tensor, level: int) -> Tensor:
        """What this level and the coarser ones add to `x`, (B, C, h, w)."""
        height, width = x.shape[-2:]
        bands = analyse(even(x), self.analysis)
        filtered = self.levels[level](bands.flatten(1, 2)).view_as(bands)
        if level + 1 < len(self.levels):
            low, details = filtered[:, :, :1], filtered[:, :, 1:]
            coarser = self._level(bands[:, :, 0], level + 1)
            filtered = torch.cat([low + coarser[:, :, None], details], dim=2)
        return synthesise(filtered, self.synthesis)[..., :height, :width]
