"""UniRepLKNet: A Universal Perception Large-Kernel ConvNet for Audio, Video, Point Cloud,
Time-Series and Image Recognition. Ding et al., CVPR 2024, arXiv:2311.15599.

y = BN(K * x) + sum_i BN(K_i *_{r_i} x)        depthwise

A kernel of dilation r is a larger one with r - 1 zeros between its entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct, centred_kernel, convolution_of, fused_weights
from detrkit.registry import MODULES, Traits

#: Kernel sizes and dilations of the branches beside a kernel of each size.
BRANCHES = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}


@MODULES.register(
    family="conv",
    paper="arXiv:2311.15599",
    venue="CVPR 2024",
    example={"in_channels": 8, "kernel_size": 7},
    traits=Traits(),
)
class DilatedReparamBlock(nn.Module):
    """A large depthwise kernel with dilated ones, one afterwards. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        kernel_size: K, odd, 5 to 17.
        branches: kernel sizes and dilations of the others; None: the paper's.

    Raises:
        ValueError: another kernel size.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 7,
        branches: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        if branches is None:
            if kernel_size not in BRANCHES:
                raise ValueError(f"kernel_size must be one of {list(BRANCHES)}, got {kernel_size}")
            branches = BRANCHES[kernel_size]
        self.out_channels = in_channels
        self.large = ConvNormAct(in_channels, in_channels, kernel_size, groups=in_channels)
        self.dilated = nn.ModuleList(
            ConvNormAct(in_channels, in_channels, side, groups=in_channels, dilation=rate)
            for side, rate in branches
        )

    def forward(self, x: Tensor) -> Tensor:
        if "conv" in self._modules:
            return self.conv(x)
        out = self.large(x)
        for branch in self.dilated:
            out = out + branch(x)
        return out

    def convert_to_deploy(self) -> None:
        """Adds the dilated kernels to the large one."""
        if "conv" in self._modules:
            return
        kernel, bias = fused_weights(self.large.conv, self.large.norm)
        for branch in self.dilated:
            small, small_bias = fused_weights(branch.conv, branch.norm)  # type: ignore[arg-type]
            dense = undilated(small, branch.conv.dilation[0])  # type: ignore[union-attr, arg-type, index]
            kernel = kernel + centred_kernel(dense, kernel.shape[-1])
            bias = bias + small_bias
        self.conv = convolution_of(kernel, bias, groups=self.out_channels)
        del self.large, self.dilated


def undilated(kernel: Tensor, rate: int) -> Tensor:
    """The kernel that does without dilation what `kernel` (out, in, k, k) does with `rate`."""
    side = rate * (kernel.shape[-1] - 1) + 1
    dense = torch.zeros(*kernel.shape[:2], side, side, dtype=kernel.dtype, device=kernel.device)
    dense[..., ::rate, ::rate] = kernel
    return dense
