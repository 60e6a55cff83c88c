"""No More Strided Convolutions or Pooling: A New CNN Building Block for Low-Resolution Images and
Small Objects. Sunkara and Luo, ECML PKDD 2022, arXiv:2208.03641.

y = CBS([x(0::2, 0::2); x(1::2, 0::2); x(0::2, 1::2); x(1::2, 1::2)])
"""

from __future__ import annotations

from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.layers.windows import space_to_depth
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="downsample",
    paper="arXiv:2208.03641",
    venue="ECML PKDD 2022",
    example={"in_channels": 8, "out_channels": 12},
    traits=Traits(scale=0.5, multiple=2),
)
class SPDConv(nn.Module):
    """All pixels of a cell, then a convolution. (B, in, H, W) -> (B, out, H/2, W/2).

    Args:
        in_channels: C.
        out_channels: width of the result; None keeps C.
        act: activation of the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        act: str | nn.Module | None = "silu",
    ) -> None:
        super().__init__()
        self.out_channels = out_channels or in_channels
        self.conv = ConvNormAct(4 * in_channels, self.out_channels, 3, act=act)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(space_to_depth(x))
