"""EMCAD: Efficient Multi-scale Convolutional Attention Decoding for Medical Image Segmentation.
Rahman et al., CVPR 2024, arXiv:2405.06880.

y = PW(relu(BN(DW(up_2(x)))))

The authors' code shuffles channels in groups of one, which does nothing and is left out.

EUCB_SC mixes neighbours before the 1×1 layer by shifting quarters of the channels by a pixel to
each side, as BHViT, Gao et al., CVPR 2025, arXiv:2503.02394, does. No paper has the combination.
Shifts wrap around the border.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="upsample",
    paper="arXiv:2405.06880",
    venue="CVPR 2024",
    example={"in_channels": 16, "out_channels": 24},
    traits=Traits(scale=2.0),
)
class EUCB(nn.Module):
    """Nearest, depthwise, pointwise. (B, in, H, W) -> (B, out, 2H, 2W).

    Args:
        in_channels: C.
        out_channels: width of the result; None keeps C.
        kernel_size: side of the depthwise convolution, odd.
        act: activation behind it.

    Raises:
        ValueError: `kernel_size` is even.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        *,
        act: str | nn.Module | None = "relu",
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.out_channels = out_channels or in_channels
        self.upsample = nn.Upsample(scale_factor=2)
        self.spatial = ConvNormAct(
            in_channels, in_channels, kernel_size, groups=in_channels, act=act
        )
        self.mix = nn.Conv2d(in_channels, self.out_channels, 1)
        for conv in (self.spatial.conv, self.mix):
            nn.init.normal_(conv.weight, std=0.02)
        nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.spatial(self.upsample(x)))


@MODULES.register(
    family="upsample",
    paper="arXiv:2405.06880, arXiv:2503.02394",
    venue="CVPR 2024, CVPR 2025",
    example={"in_channels": 16},
    traits=Traits(scale=2.0),
)
class EUCB_SC(EUCB):
    """`EUCB` whose pixels mix with their neighbours. (B, C, H, W) -> (B, C, 2H, 2W).

    Args:
        in_channels: C, a multiple of 4.
        kernel_size: side of the depthwise convolution, odd.
        act: activation behind it.

    Raises:
        ValueError: C is no multiple of 4, or `kernel_size` is even.
    """

    def __init__(
        self, in_channels: int, kernel_size: int = 3, *, act: str | nn.Module | None = "relu"
    ) -> None:
        if in_channels % 4:
            raise ValueError(f"in_channels must be a multiple of 4, got {in_channels}")
        super().__init__(in_channels, kernel_size=kernel_size, act=act)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(shifted(self.spatial(self.upsample(x))))


def shifted(x: Tensor) -> Tensor:
    """Quarters of the channels one pixel down, up, right and left, around the border."""
    sides = ((1, 2), (-1, 2), (1, 3), (-1, 3))
    parts = zip(x.chunk(4, dim=1), sides, strict=True)
    return torch.cat([torch.roll(part, by, dim) for part, (by, dim) in parts], dim=1)
