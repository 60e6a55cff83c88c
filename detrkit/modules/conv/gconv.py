"""Rethinking Performance Gains in Image Dehazing Networks (gUNet). Song et al., 2022,
arXiv:2209.11448.

y = x + PW(DW(PW(n)) · σ(PW(n))),  n = BN(x)
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from detrkit.layers.activations import get_activation
from detrkit.layers.windows import check_smallest
from detrkit.registry import MODULES, Traits


class GatedConv2d(nn.Module):
    """A depthwise convolution, weighed by a gate. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        kernel_size: k of the depthwise convolution, odd; the border is mirrored.
        gate_act: activation of the gate.
        net_depth: blocks of the whole network; deeper ones start with smaller weights.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        gate_act: str | nn.Module = "sigmoid",
        net_depth: int = 8,
    ) -> None:
        super().__init__()
        self.value = nn.Conv2d(channels, channels, 1)
        self.spatial = nn.Conv2d(
            channels,
            channels,
            kernel_size,
            padding=kernel_size // 2,
            groups=channels,
            padding_mode="reflect",
        )
        self.gate = nn.Conv2d(channels, channels, 1)
        self.act = get_activation(gate_act)
        self.project = nn.Conv2d(channels, channels, 1)
        gain = (8 * net_depth) ** -0.25
        for conv in (self.value, self.spatial, self.gate, self.project):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(conv.weight)
            std = gain * math.sqrt(2 / (fan_in + fan_out))
            nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        check_smallest(x, self.spatial.kernel_size[0] // 2 + 1)  # the border is mirrored
        return self.project(self.spatial(self.value(x)) * self.act(self.gate(x)))


@MODULES.register(
    family="conv",
    paper="arXiv:2209.11448",
    venue="arXiv 2022",
    example={"in_channels": 16},
    traits=Traits(smallest=2),
)
class gConv(nn.Module):
    """A gated convolution around a shortcut, norm first. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        kernel_size: k of the depthwise convolution, odd; sides must be above k // 2.
        gate_act: activation of the gate.
        net_depth: blocks of the whole network; deeper ones start with smaller weights.

    Raises:
        ValueError: k is even.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 3,
        *,
        gate_act: str | nn.Module = "sigmoid",
        net_depth: int = 8,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.out_channels = in_channels
        self.norm = nn.BatchNorm2d(in_channels)
        self.layer = GatedConv2d(in_channels, kernel_size, gate_act, net_depth)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(self.norm(x))
