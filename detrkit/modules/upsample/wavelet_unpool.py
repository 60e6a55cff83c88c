"""Wavelet Pooling for Convolutional Neural Networks. Williams and Li, ICLR 2018,
openreview:rkhlb8lCZ.

The inverse of the Haar transform; see `detrkit.modules.downsample.wavelet_pool`.
"""

from __future__ import annotations

from torch import Tensor, nn

from detrkit.ops.wavelets import synthesise, wavelet_bank
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="upsample",
    paper="openreview:rkhlb8lCZ",
    venue="ICLR 2018",
    example={"in_channels": 16},
    traits=Traits(scale=2.0),
)
class WaveletUnPool(nn.Module):
    """Four bands, channel by channel, become a map. (B, C, H, W) -> (B, C/4, 2H, 2W).

    Nothing learns.

    Args:
        in_channels: C, a multiple of 4.

    Raises:
        ValueError: it is not.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        if in_channels % 4:
            raise ValueError(f"in_channels must be a multiple of 4, got {in_channels}")
        self.out_channels = in_channels // 4
        self.bank = nn.Parameter(wavelet_bank(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return synthesise(x.unflatten(1, (-1, 4)), self.bank)
