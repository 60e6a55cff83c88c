"""YOLO-MS: Rethinking Multi-Scale Representation Learning for Real-time Object Detection.
Chen et al., TPAMI 2025, arXiv:2308.05480.

[x_1 … x_n] = W x;   y_1 = x_1,   y_i = IB_k(y_i-1 + x_i)        eq. 1
out = W [y_1 … y_n];   IB_k: 1×1, depthwise k×k, 1×1, repeated

Kernels grow with the stage, 3, 5, 7, 9: `kernel_sizes=(1, k, k)`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="module",
    paper="arXiv:2308.05480",
    venue="TPAMI 2025",
    example={"in_channels": 16, "in_down_ratio": 2, "num_layers": 2},
    traits=Traits(),
)
class MSBlock(nn.Module):
    """Groups of channels, each passed on to the next one's kernels. (B, C, H, W) -> (B, out, …).

    Args:
        in_channels: C.
        out_channels: None: C.
        kernel_sizes: of the groups; 1 leaves a group as it is.
        in_expand_ratio: width of all groups together, relative to C,
        in_down_ratio: divided by this; the paper's neck has 2.
        mid_expand_ratio: width of the depthwise convolutions, relative to a group's.
        num_layers: bottlenecks in a row in each group.
        act: behind every norm.

    Raises:
        ValueError: the groups' width is no multiple of their number.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_sizes: Sequence[int] = (1, 3, 3),
        in_expand_ratio: float = 3.0,
        mid_expand_ratio: float = 2.0,
        num_layers: int = 3,
        in_down_ratio: int = 1,
        act: str | nn.Module = "silu",
    ) -> None:
        super().__init__()
        self.out_channels = out_channels or in_channels
        groups = len(kernel_sizes)
        wide = int(in_channels * in_expand_ratio) // in_down_ratio
        if groups == 0 or wide % groups:
            raise ValueError(
                f"in_expand_ratio {in_expand_ratio:g} and in_down_ratio {in_down_ratio} of "
                f"{in_channels} channels give {wide}, which {groups} groups cannot share evenly"
            )
        width = wide // groups
        middle = int(width * mid_expand_ratio)
        self.enter = ConvNormAct(in_channels, wide, 1, act=act)
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(_bottleneck(width, middle, k, act) for _ in range(num_layers if k > 1 else 0))
            )
            for k in kernel_sizes
        )
        self.leave = ConvNormAct(wide, self.out_channels, 1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.enter(x).chunk(len(self.branches), dim=1)
        outputs = [self.branches[0](first)]
        for group, branch in zip(others, self.branches[1:], strict=True):
            outputs.append(branch(group + outputs[-1]))
        return self.leave(torch.cat(outputs, dim=1))


def _bottleneck(width: int, middle: int, side: int, act: str | nn.Module) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(width, middle, 1, act=act),
        ConvNormAct(middle, middle, side, groups=middle, act=act),
        ConvNormAct(middle, width, 1, act=act),
    )
