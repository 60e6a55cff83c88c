"""Emulating Self-attention with Convolution for Efficient Image Super-Resolution (ESC). Lee et al.,
ICCV 2025, arXiv:2503.06671.

p' = K * p + DW_k(p),  k = PW(gelu(PW(GAP(p))))
y  = PW([p'; rest])

K is the mean of a large kernel's eight turns and mirror images. One K serves the whole network in
the paper; here each module has its own, and it learns: circulating copies cut its gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.ops.per_image import conv2d_per_image
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="conv",
    paper="arXiv:2503.06671",
    venue="ICCV 2025",
    example={"in_channels": 16, "kernel_size": 7},
    traits=Traits(),
)
class ConvAttn(nn.Module):
    """A large shared and a small dynamic kernel for some channels. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        partial_channels: channels that are convolved, the first ones; None: a quarter.
        kernel_size: side of the large kernel, odd.

    Raises:
        ValueError: the kernel is even, or there are less than 2 or more than C such channels.
    """

    def __init__(
        self, in_channels: int, partial_channels: int | None = None, kernel_size: int = 13
    ) -> None:
        super().__init__()
        partial = partial_channels or in_channels // 4
        if not 2 <= partial <= in_channels:
            raise ValueError(f"partial_channels must be 2 to {in_channels}, got {partial}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.out_channels = in_channels
        self.widths = [partial, in_channels - partial]
        self.large = nn.Parameter(torch.empty(partial, partial, kernel_size, kernel_size))
        nn.init.orthogonal_(self.large)
        self.squeeze = nn.Conv2d(partial, partial // 2, 1)
        self.dynamic = nn.Conv2d(partial // 2, 9 * partial, 1)
        nn.init.zeros_(self.dynamic.weight)
        nn.init.zeros_(self.dynamic.bias)  # type: ignore[arg-type]
        self.mix = nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        part, rest = x.split(self.widths, dim=1)
        kernels = self.dynamic(F.gelu(self.squeeze(part.mean((2, 3), keepdim=True))))
        kernels = kernels.reshape(x.shape[0], -1, 1, 3, 3)
        large = self.symmetric()
        part = F.conv2d(part, large, padding=large.shape[-1] // 2) + conv2d_per_image(
            part, kernels, padding=1, groups=self.widths[0]
        )
        return self.mix(torch.cat([part, rest], dim=1))

    def symmetric(self) -> Tensor:
        """Mean of the large kernel's turns and mirror images, (p, p, k, k)."""
        mirrored = self.large + self.large.flip(-1)
        half = mirrored + mirrored.flip(-2)
        return (half + half.transpose(-1, -2)) / 8
