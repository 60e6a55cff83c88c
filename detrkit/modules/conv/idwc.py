"""InceptionNeXt: When Inception Meets ConvNeXt. Yu et al., CVPR 2024, arXiv:2303.16900.

y = [x_id; DW_k×k(x_hw); DW_1×b(x_w); DW_b×1(x_h)]
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="conv",
    paper="arXiv:2303.16900",
    venue="CVPR 2024",
    example={"in_channels": 16},
    traits=Traits(),
)
class InceptionDWConv2d(nn.Module):
    """A square and two bands of few channels each; the others pass. (B, C, H, W) -> (B, C, H, W).

    Without norm and activation.

    Args:
        in_channels: C.
        square_kernel_size: k, odd.
        band_kernel_size: b, odd.
        branch_ratio: share of the channels in each of the three branches.

    Raises:
        ValueError: a branch would have no channel or all three more than C; a side is even.
    """

    def __init__(
        self,
        in_channels: int,
        square_kernel_size: int = 3,
        band_kernel_size: int = 11,
        branch_ratio: float = 0.125,
    ) -> None:
        super().__init__()
        width = int(in_channels * branch_ratio)
        if not 1 <= 3 * width <= in_channels:
            raise ValueError(
                f"branch_ratio {branch_ratio} gives branches of {width} of {in_channels} channels"
            )
        for side in (square_kernel_size, band_kernel_size):
            if side % 2 == 0:
                raise ValueError(f"kernel sizes must be odd, got {side}")
        self.out_channels = in_channels
        self.widths = [in_channels - 3 * width, width, width, width]
        square, band = square_kernel_size, band_kernel_size
        self.square, self.horizontal, self.vertical = (
            depthwise(width, sides) for sides in ((square, square), (1, band), (band, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        same, hw, w, h = x.split(self.widths, dim=1)
        return torch.cat([same, self.square(hw), self.horizontal(w), self.vertical(h)], dim=1)
