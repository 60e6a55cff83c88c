"""Haar wavelet downsampling: A simple but effective downsampling module for semantic segmentation.
Xu et al., Pattern Recognition 143 (2023) 109819, doi:10.1016/j.patcog.2023.109819.

y = relu(BN(PW([LL; LH; HL; HH]))),  bands of the Haar transform

Without the authors' wavelet library, whose filters are part of the state and stop an export.
"""

from __future__ import annotations

from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.ops.wavelets import analyse, even, wavelet_bank
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="downsample",
    paper="doi:10.1016/j.patcog.2023.109819",
    venue="Pattern Recognition 2023",
    example={"in_channels": 8, "out_channels": 12},
    traits=Traits(scale=0.5),
)
class HWD(nn.Module):
    """The four Haar bands, mixed. (B, in, H, W) -> (B, out, H/2, W/2), rounded up.

    Args:
        in_channels: C.
        out_channels: width of the result; None keeps C.
        bias: of the 1×1 convolution; the norm behind it makes it needless.
        act: activation.
    """

    bank: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        bias: bool = True,
        act: str | nn.Module | None = "relu",
    ) -> None:
        super().__init__()
        self.out_channels = out_channels or in_channels
        self.register_buffer("bank", wavelet_bank().repeat(in_channels, 1, 1, 1), persistent=False)
        self.mix = ConvNormAct(4 * in_channels, self.out_channels, 1, bias=bias, act=act)

    def forward(self, x: Tensor) -> Tensor:
        bands = analyse(even(x), self.bank)  # (B, C, 4, h, w)
        return self.mix(bands.transpose(1, 2).flatten(1, 2))
