"""RepHMS: re-parameterised heterogeneous multi-scale block. MHAF-YOLO, arXiv:2502.04656, 2025.

    [s₀ … s_{w-1}] = 1×1 x,   s₁ <- s₁ + s₀
    s_{i+1} = unit …(s_{i+1} + what the chain before made)
    y = 1×1 [s₀, every unit's output]

A unit is 1×1, large kernel, 1×1, large kernel, 1×1; the large depthwise kernels have smaller ones
beside them in training. Kernels grow with the level of the pyramid: 5, 7, 9.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct, fused_convolution
from detrkit.modules.conv.dilated_reparam import DilatedReparamBlock
from detrkit.registry import MODULES, Traits

#: Kernels beside a kernel of these sizes, all of dilation 1; larger ones are UniRepLKNet's.
SMALL_BRANCHES = {3: (3, 1), 5: (3, 1), 7: (5, 3), 9: (7, 5, 3)}


class LargeKernel(nn.Module):
    """Depthwise kernels of several sizes, one afterwards, and a norm. (B, C, H, W), same out."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        small = SMALL_BRANCHES.get(kernel_size)
        branches = None if small is None else [(side, 1) for side in small]
        self.kernels: nn.Module = DilatedReparamBlock(channels, kernel_size, branches)
        self.norm: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.kernels(x))

    def convert_to_deploy(self) -> None:
        """One convolution with the norm folded in."""
        if isinstance(self.kernels, DilatedReparamBlock) and isinstance(self.norm, nn.BatchNorm2d):
            self.kernels.convert_to_deploy()
            self.kernels = fused_convolution(self.kernels.conv, self.norm)
            self.norm = nn.Identity()


class Unit(nn.Sequential):
    """(B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, expansion: float, kernel_size: int) -> None:
        wide = int(channels * expansion)
        super().__init__(
            ConvNormAct(channels, wide, 1, act="silu"),
            LargeKernel(wide, kernel_size),
            nn.SiLU(),
            ConvNormAct(wide, wide, 1, act="silu"),
            LargeKernel(wide, kernel_size),
            nn.SiLU(),
            ConvNormAct(wide, channels, 1, act="silu"),
        )


@MODULES.register(
    family="block",
    paper="arXiv:2502.04656",
    venue="arXiv 2025",
    example={"in_channels": 16, "out_channels": 24, "num_slices": 3, "depth": 2},
    traits=Traits(),
)
class RepHMS(nn.Module):
    """(B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: C.
        out_channels: None keeps the width.
        num_slices: w, slices in a cascade.
        depth: units in a row for each slice but the first.
        unit_expansion: width inside a unit, relative to a slice.
        kernel_size: of the large kernels: 3, 5, 7, 9, 11, 13, 15 or 17.
        expansion: width of a slice, relative to `out_channels`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        num_slices: int = 3,
        depth: int = 1,
        unit_expansion: float = 2.0,
        kernel_size: int = 5,
        expansion: float = 0.5,
    ) -> None:
        super().__init__()
        if num_slices < 2 or depth < 1:
            raise ValueError(f"needs 2 slices and depth 1 at least, got {num_slices} and {depth}")
        self.out_channels = in_channels if out_channels is None else out_channels
        self.num_slices = num_slices
        c = int(self.out_channels * expansion)
        self.enter = ConvNormAct(in_channels, num_slices * c, 1, act="silu")
        self.units = nn.ModuleList(
            nn.ModuleList(Unit(c, unit_expansion, kernel_size) for _ in range(depth))
            for _ in range(num_slices - 1)
        )
        width = (1 + (num_slices - 1) * depth) * c
        self.leave = ConvNormAct(width, self.out_channels, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        slices = list(self.enter(x).chunk(self.num_slices, dim=1))
        kept = [slices[0]]
        cascade = [slices[0]]  # what the next slice is added to, unit by unit
        for part, units in zip(slices[1:], self.units, strict=True):
            made: list[Tensor] = []
            for j, unit in enumerate(units):  # type: ignore[arg-type, var-annotated]
                part = unit(part + cascade[j] if j < len(cascade) else part)
                made.append(part)
            kept += made
            cascade = made
        return self.leave(torch.cat(kept, dim=1))
