"""MobileIE: An Extremely Lightweight and Effective ConvNet for Real-Time Image Enhancement on
Mobile Devices. Yan et al., ICCV 2025, arXiv:2507.01838.

y = P [u_1; …; u_n; BN(u_1); …; BN(u_n)],  u_i = K_i * x

P is 1×1, so that all of it is one convolution in evaluation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.conv import centred_kernel, convolution_of, fused_weights, same_padding
from detrkit.registry import MODULES, Traits


class MBRConv(nn.Module):
    """Several kernels, with and without norm, mixed. (B, in, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        out_channels: width of the result; None keeps C.
        rep_scale: each branch is this many times wider than the result.
    """

    #: Sides of the branches' kernels, the largest first.
    kernels: tuple[tuple[int, int], ...] = ()

    def __init__(
        self, in_channels: int, out_channels: int | None = None, rep_scale: int = 4
    ) -> None:
        super().__init__()
        self.out_channels = out = out_channels or in_channels
        width = out * rep_scale
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels, width, sides, padding=same_padding(sides))
            for sides in self.kernels
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in self.kernels)
        self.mix = nn.Conv2d(2 * len(self.kernels) * width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        if "conv" in self._modules:
            return self.conv(x)
        plain = [conv(x) for conv in self.convs]
        normed = [norm(u) for norm, u in zip(self.norms, plain, strict=True)]
        return self.mix(torch.cat(plain + normed, dim=1))

    def convert_to_deploy(self) -> None:
        """Multiplies the stacked kernels by the mixing matrix."""
        if "conv" in self._modules:
            return
        plain = [(conv.weight, conv.bias) for conv in self.convs]
        normed = [
            fused_weights(conv, norm)  # type: ignore[arg-type]
            for conv, norm in zip(self.convs, self.norms, strict=True)
        ]
        kernels, biases = zip(*plain, *normed, strict=True)
        side = self.kernels[0][0]
        mix = self.mix.weight.flatten(1)
        stacked = torch.cat([centred_kernel(kernel, side) for kernel in kernels])
        kernel = torch.einsum("or,rihw->oihw", mix, stacked)
        assert self.mix.bias is not None
        self.conv = convolution_of(kernel, mix @ torch.cat(biases) + self.mix.bias)
        del self.convs, self.norms, self.mix


@MODULES.register(
    family="conv",
    paper="arXiv:2507.01838",
    venue="ICCV 2025",
    example={"in_channels": 8, "out_channels": 12},
    traits=Traits(),
)
class MBRConv1(MBRConv):
    """1×1, re-parameterised. (B, in, H, W) -> (B, out, H, W)."""

    kernels = ((1, 1),)


@MODULES.register(
    family="conv",
    paper="arXiv:2507.01838",
    venue="ICCV 2025",
    example={"in_channels": 8, "out_channels": 12},
    traits=Traits(),
)
class MBRConv3(MBRConv):
    """3×3, re-parameterised. (B, in, H, W) -> (B, out, H, W)."""

    kernels = ((3, 3), (1, 1), (3, 1), (1, 3))


@MODULES.register(
    family="conv",
    paper="arXiv:2507.01838",
    venue="ICCV 2025",
    example={"in_channels": 8, "out_channels": 12},
    traits=Traits(),
)
class MBRConv5(MBRConv):
    """5×5, re-parameterised. (B, in, H, W) -> (B, out, H, W)."""

    kernels = ((5, 5), (1, 1), (3, 3), (3, 1), (1, 3))
