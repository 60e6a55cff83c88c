"""LAWDS: light adaptive-weight down-sampling. Without a paper: of z1069614715's public collection
of YOLO and RT-DETR improvements.

y = sum_s softmax_s(CBS(avg(x)))_s · CBS_2(x)_s,  s the four pixels of a cell

The published layout takes the four weights of a pixel from the four quarters of the image, and
not from its 2 × 2 cell; `quadrants` brings that back, for weights trained with it.
"""

from __future__ import annotations

from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.layers.windows import check_multiple
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="downsample",
    paper="z1069614715's collection of improvements, without a paper",
    venue="GitHub",
    example={"in_channels": 16, "out_channels": 24, "group": 4},
    traits=Traits(scale=0.5, multiple=2),
)
class LAWDS(nn.Module):
    """Four candidates for each pixel, weighed. (B, C, H, W) -> (B, out, H/2, W/2).

    Args:
        in_channels: C, a multiple of `group`.
        out_channels: width of the result, through a 1×1 layer if it is not C; None keeps C.
        group: channels in each group of the candidates' convolution.
        quadrants: whether weights come from the four quarters of the image, as published.

    Raises:
        ValueError: C is no multiple of `group`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        group: int = 16,
        *,
        quadrants: bool = False,
    ) -> None:
        super().__init__()
        if in_channels % group:
            raise ValueError(f"in_channels must be a multiple of group {group}, got {in_channels}")
        self.out_channels = out = out_channels or in_channels
        self.quadrants = quadrants
        self.weigh = nn.Sequential(
            nn.AvgPool2d(3, 1, 1), ConvNormAct(in_channels, in_channels, 1, act="silu")
        )
        self.candidates = ConvNormAct(
            in_channels, 4 * in_channels, 3, 2, groups=in_channels // group, act="silu"
        )
        self.project: nn.Module = nn.Identity()
        if out != in_channels:
            self.project = ConvNormAct(in_channels, out, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        check_multiple(x, 2)
        height, width = x.shape[-2] // 2, x.shape[-1] // 2
        weights = self.weigh(x)
        if self.quadrants:  # (B, C, 2, h, 2, w)
            weights = weights.unflatten(3, (2, width)).unflatten(2, (2, height))
            weights = weights.permute(0, 2, 4, 1, 3, 5)
        else:  # (B, C, h, 2, w, 2)
            weights = weights.unflatten(3, (width, 2)).unflatten(2, (height, 2))
            weights = weights.permute(0, 3, 5, 1, 2, 4)
        weights = weights.flatten(1, 2).softmax(1)  # (B, 4, C, h, w)
        candidates = self.candidates(x).unflatten(1, (4, -1))
        return self.project((candidates * weights).sum(1))
