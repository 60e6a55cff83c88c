"""SMPConv: Self-moving Point Representations for Continuous Convolution. Kim and Park, CVPR 2023,
arXiv:2304.02330.

K_c(u) = sum_n w_cn · max(0, 1 - |u - p_n|_1 / r_n)

A large kernel out of few weights at places p that move, u in [-1, 1]². Pure PyTorch in place of
the authors' CUDA kernel. They clip radii to [0.001, 1] after each step; here the kernel sees them
clipped, and the gradient does not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct, convolution_of
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="conv",
    paper="arXiv:2304.02330",
    venue="CVPR 2023",
    example={"in_channels": 8, "kernel_size": 7},
    traits=Traits(),
)
class SMPConv(nn.Module):
    """A large depthwise kernel made of points. (B, C, H, W) -> (B, C, H, W).

    Without bias, norm and activation.

    Args:
        in_channels: C.
        kernel_size: k, odd.
        n_points: points of each kernel, at the same places in all channels.

    Raises:
        ValueError: k is even.
    """

    def __init__(self, in_channels: int, kernel_size: int = 11, n_points: int = 4) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.out_channels = in_channels
        self.kernel_size = kernel_size
        self.places = nn.Parameter(torch.empty(1, n_points, 2))
        nn.init.trunc_normal_(self.places, std=0.2, a=-1.0, b=1.0)
        self.radius = nn.Parameter(torch.full((1, n_points, 1, 1), 4 / kernel_size))
        self.weight = nn.Parameter(torch.empty(1, in_channels, n_points))
        nn.init.trunc_normal_(self.weight, std=0.2)

    def forward(self, x: Tensor) -> Tensor:
        if "conv" in self._modules:
            return self.conv(x)
        kernel = self.kernel()
        return F.conv2d(x, kernel, padding=self.kernel_size // 2, groups=self.out_channels)

    def kernel(self) -> Tensor:
        """(C, 1, k, k); the first coordinate of a place goes along, the second upwards."""
        radius = self.radius + (self.radius.clamp(1e-3, 1) - self.radius).detach()
        u = torch.linspace(-1, 1, self.kernel_size, device=radius.device, dtype=radius.dtype)
        along, up = (self.places[0] - u[:, None, None]).abs().unbind(-1)  # (k, n) each
        distance = up.flip(0)[:, None] + along  # (rows, columns, n)
        points = (1 - distance / radius.flatten()).relu()
        return torch.einsum("cn,hwn->chw", self.weight[0], points)[:, None]

    def convert_to_deploy(self) -> None:
        """Keeps the kernel instead of the points."""
        if "conv" in self._modules:
            return
        kernel = self.kernel()
        self.conv = convolution_of(kernel, kernel.new_zeros(len(kernel)), groups=len(kernel))
        del self.places, self.radius, self.weight


@MODULES.register(
    family="conv",
    paper="arXiv:2304.02330",
    venue="CVPR 2023",
    example={"in_channels": 8, "kernel_size": 9},
    traits=Traits(),
)
class SMPCNN(nn.Module):
    """A kernel made of points and a 5×5 one, with norms. (B, C, H, W) -> (B, C, H, W).

    Depthwise; one convolution after deployment.

    Args:
        in_channels: C.
        kernel_size: k, odd.
        n_points: of the large kernel; None: k² // 4.
    """

    def __init__(
        self, in_channels: int, kernel_size: int = 11, n_points: int | None = None
    ) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.smp = SMPConv(in_channels, kernel_size, n_points or kernel_size**2 // 4)
        self.norm = nn.BatchNorm2d(in_channels)
        self.small = ConvNormAct(in_channels, in_channels, 5, groups=in_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.smp(x)) + self.small(x)
