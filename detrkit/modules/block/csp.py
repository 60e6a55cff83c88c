"""Cross-stage partial stages: C3, C2f and C3k2, as YOLOv5, YOLOv8 and YOLO11 have them.

Half of the channels pass by the inner blocks (CSPNet, Wang et al., CVPRW 2020, arXiv:1911.11929).

    C3     y = conv [blocks(conv x), conv x]
    C2f    [y₀, y₁] = conv x;  y_{i+1} = block_i(y_i);  y = conv [y₀, y₁, …]
    C3k2   C2f whose blocks are bottlenecks, or, with c3k, C3 stages of two bottlenecks

The inner block can be any module that keeps its width: `C2f: {inner: FasterBlock}`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.modules.part import Part, build_part
from detrkit.registry import MODULES, Traits


class Bottleneck(nn.Module):
    """Two convolutions and a shortcut. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        shortcut: whether the input is added.
        groups: of the second convolution.
        kernels: sides of the two.
        expansion: width between them, relative to C.
    """

    def __init__(
        self,
        channels: int,
        shortcut: bool = True,
        groups: int = 1,
        kernels: tuple[int, int] = (3, 3),
        expansion: float = 0.5,
    ) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.conv1 = ConvNormAct(channels, hidden, kernels[0], act="silu")
        self.conv2 = ConvNormAct(hidden, channels, kernels[1], groups=groups, act="silu")
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


def inner_block(
    inner: Part | None, where: str, channels: int, bottleneck: Callable[[int], nn.Module]
) -> nn.Module:
    """The inner block that is asked for, or a bottleneck."""
    if inner is None:
        return bottleneck(channels)
    return build_part(inner, where, channels, channels)


class C3Stage(nn.Module):
    """The wiring of C3 around given blocks. (B, in, H, W) -> (B, out, H, W)."""

    def __init__(
        self, in_channels: int, out_channels: int, hidden: int, blocks: list[nn.Module]
    ) -> None:
        super().__init__()
        self.enter = ConvNormAct(in_channels, hidden, 1, act="silu")
        self.bypass = ConvNormAct(in_channels, hidden, 1, act="silu")
        self.blocks = nn.Sequential(*blocks)
        self.fuse = ConvNormAct(2 * hidden, out_channels, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(torch.cat([self.blocks(self.enter(x)), self.bypass(x)], dim=1))


class C2fStage(nn.Module):
    """The wiring of C2f around given blocks. (B, in, H, W) -> (B, out, H, W)."""

    def __init__(
        self, in_channels: int, out_channels: int, hidden: int, blocks: list[nn.Module]
    ) -> None:
        super().__init__()
        self.split = ConvNormAct(in_channels, 2 * hidden, 1, act="silu")
        self.blocks = nn.ModuleList(blocks)
        self.fuse = ConvNormAct((2 + len(blocks)) * hidden, out_channels, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        maps = list(self.split(x).chunk(2, dim=1))
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return self.fuse(torch.cat(maps, dim=1))


@MODULES.register(
    family="block",
    paper="arXiv:1911.11929",
    venue="CVPRW 2020",
    example={"in_channels": 16, "out_channels": 24, "num_blocks": 2},
    traits=Traits(),
    parts=("inner",),
)
class C3(C3Stage):
    """(B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: C.
        out_channels: None keeps the width.
        shortcut, groups: of the bottlenecks.
        expansion: width of the two halves, relative to `out_channels`.
        inner: module in place of the bottlenecks.
        inner_expansion: width inside a bottleneck.
        num_blocks: inner blocks in a row.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        shortcut: bool = True,
        groups: int = 1,
        expansion: float = 0.5,
        *,
        inner: Part | None = None,
        inner_expansion: float = 1.0,
        num_blocks: int = 1,
    ) -> None:
        out = in_channels if out_channels is None else out_channels
        hidden = int(out * expansion)
        own = partial(
            Bottleneck,
            shortcut=shortcut,
            groups=groups,
            kernels=(1, 3),
            expansion=inner_expansion,
        )
        blocks = [inner_block(inner, "C3.inner", hidden, own) for _ in range(num_blocks)]
        super().__init__(in_channels, out, hidden, blocks)
        self.out_channels = out


@MODULES.register(
    family="block",
    paper="arXiv:1911.11929",
    venue="CVPRW 2020",
    example={"in_channels": 16, "out_channels": 24, "num_blocks": 2},
    traits=Traits(),
    parts=("inner",),
)
class C2f(C2fStage):
    """(B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: C.
        out_channels: None keeps the width.
        shortcut, groups: of the bottlenecks.
        expansion: width of the two halves, relative to `out_channels`.
        inner: module in place of the bottlenecks.
        inner_expansion: width inside a bottleneck.
        num_blocks: inner blocks in a row.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        shortcut: bool = False,
        groups: int = 1,
        expansion: float = 0.5,
        *,
        inner: Part | None = None,
        inner_expansion: float = 1.0,
        num_blocks: int = 1,
    ) -> None:
        out = in_channels if out_channels is None else out_channels
        hidden = int(out * expansion)
        own = partial(Bottleneck, shortcut=shortcut, groups=groups, expansion=inner_expansion)
        blocks = [inner_block(inner, "C2f.inner", hidden, own) for _ in range(num_blocks)]
        super().__init__(in_channels, out, hidden, blocks)
        self.out_channels = out


@MODULES.register(
    family="block",
    paper="arXiv:1911.11929",
    venue="CVPRW 2020",
    example={"in_channels": 16, "out_channels": 24, "c3k": True, "num_blocks": 2},
    traits=Traits(),
    parts=("inner",),
)
class C3k2(C2fStage):
    """(B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: C.
        out_channels: None keeps the width.
        c3k: whether each block is a C3 stage of two inner blocks at half the width.
        expansion: width of the two halves, relative to `out_channels`.
        groups, shortcut: of the bottlenecks.
        inner: module in place of the bottlenecks; with c3k it sees a quarter of the channels.
        inner_expansion: width inside a bottleneck; None: 1 with c3k, else 0.5.
        num_blocks: blocks in a row.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        c3k: bool = False,
        expansion: float = 0.5,
        groups: int = 1,
        shortcut: bool = True,
        *,
        inner: Part | None = None,
        inner_expansion: float | None = None,
        num_blocks: int = 1,
    ) -> None:
        out = in_channels if out_channels is None else out_channels
        hidden = int(out * expansion)
        if inner_expansion is None:
            inner_expansion = 1.0 if c3k else 0.5
        own = partial(Bottleneck, shortcut=shortcut, groups=groups, expansion=inner_expansion)
        where = "C3k2.inner"

        def block() -> nn.Module:
            if not c3k:
                return inner_block(inner, where, hidden, own)
            half = hidden // 2
            return C3Stage(
                hidden, hidden, half, [inner_block(inner, where, half, own) for _ in range(2)]
            )

        super().__init__(in_channels, out, hidden, [block() for _ in range(num_blocks)])
        self.out_channels = out
