"""Wavelet Pooling for Convolutional Neural Networks. Williams and Li, ICLR 2018,
openreview:rkhlb8lCZ.

[LL; LH; HL; HH] = DWT(x), Haar

The paper analyses twice and drops the first details; as in circulating code, one level is kept
with all four bands, so that nothing is lost: `WaveletUnPool` inverts it.
"""

from __future__ import annotations

from torch import Tensor, nn

from detrkit.layers.windows import check_smallest
from detrkit.ops.wavelets import analyse, wavelet_bank
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="downsample",
    paper="openreview:rkhlb8lCZ",
    venue="ICLR 2018",
    example={"in_channels": 8},
    traits=Traits(scale=0.5, smallest=2),
)
class WaveletPool(nn.Module):
    """The four Haar bands of each channel. (B, C, H, W) -> (B, 4C, H/2, W/2), rounded down.

    Nothing learns.

    Args:
        in_channels: C.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = 4 * in_channels
        self.bank = nn.Parameter(wavelet_bank(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        check_smallest(x, 2)
        return analyse(x, self.bank).flatten(1, 2)
