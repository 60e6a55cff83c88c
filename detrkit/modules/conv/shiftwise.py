"""ShiftwiseConv: Small Convolutional Kernel with Large Kernel Effect. Li et al., CVPR 2025,
arXiv:2401.12736.

y = BN(sum_i shift_x(σ(g_i) u_i, i)) + BN(sum_i shift_y(σ(h_i) u_i, i)) + BN(conv_s(x))
u = conv_s(x), n = ⌈K / s⌉ pieces for each output channel

A K×s and an s×K kernel, put together from small ones whose outputs are shifted by s each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import (
    ConvNormAct,
    centred_kernel,
    convolution_of,
    fused_weights,
    norm_act,
)
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="conv",
    paper="arXiv:2401.12736",
    venue="CVPR 2025",
    example={"in_channels": 8, "kernel_size": 11, "small_kernel": 3, "act": "silu"},
    traits=Traits(),
)
class ShiftwiseConv(nn.Module):
    """Bands of a large kernel out of small kernels. (B, in, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        out_channels: width of the result; None keeps C.
        kernel_size: K, odd, length of the bands.
        small_kernel: s, odd, their width.
        groups: of the convolutions; None: depthwise.
        act: activation behind a batch norm; None: neither, as in the paper.

    Raises:
        ValueError: K or s is even, or s is not below K.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 13,
        small_kernel: int = 5,
        groups: int | None = None,
        *,
        act: str | nn.Module | None = None,
    ) -> None:
        super().__init__()
        _check(kernel_size, small_kernel)
        self.out_channels = out = out_channels or in_channels
        groups = groups or in_channels
        padding, self.shifts = _layout(kernel_size, small_kernel)
        self.crop = padding - small_kernel // 2
        pieces = out * len(self.shifts)
        self.pieces = nn.Conv2d(
            in_channels, pieces, small_kernel, padding=padding, groups=groups, bias=False
        )
        self.gates = nn.ParameterList(
            nn.Parameter(torch.empty(1, pieces, 1, 1).uniform_(-1, 1)) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(out) for _ in range(2))
        self.small = ConvNormAct(in_channels, out, small_kernel, groups=groups)
        self.last = norm_act(out, act)

    def forward(self, x: Tensor) -> Tensor:
        pieces = self.pieces(x)
        across, down = (pieces * gate.sigmoid() for gate in self.gates)
        bands = [
            self._shifted(across, x.shape[3]),
            self._shifted(down.transpose(2, 3), x.shape[2]).transpose(2, 3),
        ]
        total = self.small(x)
        for norm, band in zip(self.norms, bands, strict=True):
            total = total + norm(band)
        return self.last(total)

    def _shifted(self, pieces: Tensor, width: int) -> Tensor:
        """Sum of the pieces (B, out·n, h, w), each read from its own column on: (B, out, H, W)."""
        total = None
        for i, shift in enumerate(self.shifts):
            if not -width < shift < pieces.shape[3]:
                continue  # nothing of it lies in the map
            piece = pieces[:, i :: len(self.shifts)]
            right = shift + width - piece.shape[3]  # negative: cut off
            piece = F.pad(piece, (-shift, right, -self.crop, -self.crop))
            total = piece if total is None else total + piece
        assert total is not None
        return total


@MODULES.register(
    family="conv",
    paper="arXiv:2401.12736",
    venue="CVPR 2025",
    example={"in_channels": 8, "kernel_size": 7, "small_kernel": 3},
    traits=Traits(),
)
class ReparamLargeKernelConv(nn.Module):
    """A large and a small kernel, one afterwards. (B, in, H, W) -> (B, out, H, W).

    What the paper compares with; RepLKNet, Ding et al., CVPR 2022, arXiv:2203.06717.

    Args:
        in_channels: C.
        out_channels: width of the result; None keeps C.
        kernel_size: side of the large kernel, odd.
        small_kernel: side of the small one, odd.
        groups: of the convolutions; None: depthwise.

    Raises:
        ValueError: a side is even, or the small one is not below the large one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 13,
        small_kernel: int = 5,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        _check(kernel_size, small_kernel)
        self.out_channels = out = out_channels or in_channels
        self.groups = groups or in_channels
        self.large = ConvNormAct(in_channels, out, kernel_size, groups=self.groups)
        self.small = ConvNormAct(in_channels, out, small_kernel, groups=self.groups)

    def forward(self, x: Tensor) -> Tensor:
        if "conv" in self._modules:
            return self.conv(x)
        return self.large(x) + self.small(x)

    def convert_to_deploy(self) -> None:
        """Puts the small kernel into the middle of the large one."""
        if "conv" in self._modules:
            return
        large, large_bias = fused_weights(self.large.conv, self.large.norm)
        small, small_bias = fused_weights(self.small.conv, self.small.norm)
        kernel = large + centred_kernel(small, large.shape[-1])
        self.conv = convolution_of(kernel, large_bias + small_bias, groups=self.groups)
        del self.large, self.small


def _check(kernel_size: int, small_kernel: int) -> None:
    if kernel_size % 2 == 0 or small_kernel % 2 == 0 or small_kernel >= kernel_size:
        raise ValueError(
            f"small_kernel must be odd and below an odd kernel_size, got {small_kernel} and "
            f"{kernel_size}"
        )


def _layout(size: int, small: int) -> tuple[int, list[int]]:
    """Padding of the small convolution, and from where each piece is read."""
    middle, count = size // 2, -(-size // small)
    left, right = middle % small, (count * small - middle - 1) % small
    padding = left
    while padding < max(right, small - 1):
        padding += small
    first = -(-(middle + 1) // small) - (padding - left) // small
    return padding, [(i + 1 - first) * small for i in range(count)]
