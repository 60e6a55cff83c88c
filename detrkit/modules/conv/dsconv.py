"""Dynamic Snake Convolution based on Topological Geometric Constraints for Tubular Structure
Segmentation. Qi et al., ICCV 2023, arXiv:2307.08388.

c_±i = c_±(i-1) + δ_±i,  δ = tanh(BN(conv(x))),  c_0 = 0        a chain of points
y    = act(GN(sum_i w_i x(p + i along the strip, c_i across)))

The authors' code samples every image of a batch from the first one, cuts the gradient of both end
points, and does not add these up; here each image is its own, all points learn and add up as in
the paper. Half of the predicted offsets is of the other direction and unused, as in the authors'
code, whose weights fit.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from detrkit.layers.activations import get_activation
from detrkit.layers.conv import ConvNormAct
from detrkit.ops.deform_conv import sample
from detrkit.registry import MODULES, Traits

Direction = Literal["horizontal", "vertical"]


@MODULES.register(
    family="conv",
    paper="arXiv:2307.08388",
    venue="ICCV 2023",
    example={"in_channels": 16, "kernel_size": 5},
    traits=Traits(float32="places of samples"),
)
class DSConv(nn.Module):
    """A strip of points that follows a thin structure. (B, in, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        out_channels: width of the result, a multiple of 4; None keeps C.
        kernel_size: points of the strip, odd.
        direction: along which the strip lies before it bends.
        extend_scope: how many pixels an offset of one is.
        act: activation behind the group norm.
        accumulate_ends: whether the two end points add to their neighbours; False for the
            authors' weights of strips longer than 3.

    Raises:
        ValueError: `kernel_size` is even or `out_channels` no multiple of 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 9,
        *,
        direction: Direction = "horizontal",
        extend_scope: float = 1.0,
        act: str | nn.Module | None = "relu",
        accumulate_ends: bool = True,
    ) -> None:
        super().__init__()
        self.out_channels = out = out_channels or in_channels
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        if out % 4:
            raise ValueError(f"out_channels must be a multiple of 4, got {out}")
        self.kernel_size = kernel_size
        self.horizontal = direction == "horizontal"
        self.extend_scope = extend_scope
        self.accumulate_ends = accumulate_ends
        self.offset = ConvNormAct(in_channels, 2 * kernel_size, 3, bias=True, act=nn.Tanh())
        sides = (kernel_size, 1) if self.horizontal else (1, kernel_size)
        self.conv = nn.Conv2d(in_channels, out, sides, stride=sides)
        self.norm = nn.GroupNorm(out // 4, out)
        self.act = get_activation(act)

    def bends(self, x: Tensor) -> Tensor:
        """How far each point lies across the strip, in pixels: (B, k, H, W)."""
        half = self.kernel_size // 2
        down, along = self.offset(x).chunk(2, dim=1)
        step = (down if self.horizontal else along).unbind(1)
        place = {half: torch.zeros_like(step[0])}
        for i in range(1, half + 1):
            joined = i == 1 or i < half or self.accumulate_ends
            for point, inner in ((half + i, half + i - 1), (half - i, half - i + 1)):
                place[point] = step[point] + place[inner] if joined else step[point]
        return self.extend_scope * torch.stack([place[i] for i in range(self.kernel_size)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        index = torch.arange(self.kernel_size, device=x.device)[:, None, None]
        along = index - self.kernel_size // 2
        rows = torch.arange(height, device=x.device)[:, None].expand(-1, width)
        columns = torch.arange(width, device=x.device).expand(height, -1)
        bends = self.bends(x)
        if self.horizontal:
            rows, columns = rows + bends, (columns + along).expand_as(bends)
        else:
            rows, columns = (rows + along).expand_as(bends), columns + bends
        # the authors' border: nothing outside, and the last row or column up to one pixel further
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        taps = sample(x, rows, columns, padding_mode="border") * inside[:, None]
        if self.horizontal:  # (B, C, k, H, W), points between rows or columns
            taps = taps.transpose(2, 3).flatten(2, 3)
        else:
            taps = taps.permute(0, 1, 3, 4, 2).flatten(3)
        return self.act(self.norm(self.conv(taps)))


@MODULES.register(
    family="conv",
    paper="arXiv:2307.08388",
    venue="ICCV 2023",
    example={"in_channels": 16},
    traits=Traits(float32="places of samples"),
)
class DySnakeConv(nn.Module):
    """A plain convolution and a snake in each direction, merged. (B, in, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        out_channels: width of the result; None keeps C.
        kernel_size: k of the convolution and points of the strips, odd.
        act: activation of all parts.
        accumulate_ends: as for `DSConv`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        *,
        act: str | nn.Module | None = "silu",
        accumulate_ends: bool = True,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels or in_channels
        directions: tuple[Direction, ...] = ("horizontal", "vertical")
        self.plain = ConvNormAct(in_channels, in_channels, kernel_size, act=act)
        self.snakes = nn.ModuleList(
            DSConv(
                in_channels,
                kernel_size=kernel_size,
                direction=direction,
                act=act,
                accumulate_ends=accumulate_ends,
            )
            for direction in directions
        )
        self.merge = ConvNormAct(3 * in_channels, self.out_channels, 1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(torch.cat([self.plain(x), *(snake(x) for snake in self.snakes)], dim=1))
