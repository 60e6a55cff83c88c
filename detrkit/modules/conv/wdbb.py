"""YOLO-MIF: Improved YOLOv8 with Multi-Information Fusion for Object Detection in Gray-Scale
Images. Wan et al., Advanced Engineering Informatics 62 (2024), doi:10.1016/j.aei.2024.102709.

wide:  y = silu(DBB's branches + BN(K×1 x) + BN(1×K x))
deep:  y = silu(DBB's branches, of which K×K is a DBB itself)

The block within the deep one is fused together with it.
"""

from __future__ import annotations

from torch import nn

from detrkit.modules.conv.dbb import DiverseBranchBlock, PlainBranch
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="conv",
    paper="doi:10.1016/j.aei.2024.102709",
    venue="Advanced Engineering Informatics 2024",
    example={"in_channels": 16, "out_channels": 24},
    traits=Traits(),
)
class WideDiverseBranchBlock(DiverseBranchBlock):
    """A diverse branch block with a column and a row. (B, in, H, W) -> (B, out, H/s, W/s).

    Args:
        in_channels: C.
        out_channels: width of the result; None keeps C.
        kernel_size: K, odd.
        stride, groups: s and the groups of the convolution it becomes.
        act: activation of the sum.

    Raises:
        ValueError: K is even.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        *,
        act: str | nn.Module | None = "silu",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, groups, act=act)
        for sides in ((kernel_size, 1), (1, kernel_size)):
            self.branches.append(PlainBranch(in_channels, self.out_channels, sides, stride, groups))


@MODULES.register(
    family="conv",
    paper="doi:10.1016/j.aei.2024.102709",
    venue="Advanced Engineering Informatics 2024",
    example={"in_channels": 16, "out_channels": 24},
    traits=Traits(),
)
class DeepDiverseBranchBlock(DiverseBranchBlock):
    """A diverse branch block within another. (B, in, H, W) -> (B, out, H/s, W/s).

    Args:
        in_channels: C.
        out_channels: width of the result; None keeps C.
        kernel_size: K, odd.
        stride, groups: s and the groups of the convolution it becomes.
        act: activation of the sum.

    Raises:
        ValueError: K is even.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        *,
        act: str | nn.Module | None = "silu",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, groups, act=act)
        self.branches[0] = DiverseBranchBlock(
            in_channels, self.out_channels, kernel_size, stride, groups
        )
