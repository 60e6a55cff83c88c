"""DEA-Net: Single Image Dehazing Based on Detail-Enhanced Convolution and Content-Guided
Attention. Chen et al., IEEE TIP 2024, arXiv:2301.04805.

y = (K_c + K_h + K_v + K_a + K) * x + b

    central     W, less its sum in the middle
    horizontal  [v, 0, -v], vertical its transpose
    angular     W less W turned by one step around the middle

Convolution is linear in its kernel, so that the five are one in training too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detrkit.layers.activations import get_activation
from detrkit.layers.conv import convolution_of, fused_convolution
from detrkit.registry import MODULES, Traits

#: Where each of the nine places of a kernel, row by row, comes from after one step around.
TURNED = (3, 0, 1, 6, 4, 2, 7, 8, 5)


@MODULES.register(
    family="conv",
    paper="arXiv:2301.04805",
    venue="IEEE TIP 2024",
    example={"in_channels": 8, "act": "silu"},
    traits=Traits(),
)
class DEConv(nn.Module):
    """A 3×3 convolution that also learns differences. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        act: activation behind a batch norm; None: neither, as in the paper.
    """

    in_a_row = ("conv", "act")

    def __init__(self, in_channels: int, *, act: str | nn.Module | None = None) -> None:
        super().__init__()
        self.out_channels = in_channels
        square, line = (in_channels, in_channels, 3, 3), (in_channels, in_channels, 3)
        self.central = nn.Parameter(torch.empty(square))
        self.horizontal = nn.Parameter(torch.empty(line))
        self.vertical = nn.Parameter(torch.empty(line))
        self.angular = nn.Parameter(torch.empty(square))
        self.plain = nn.Parameter(torch.empty(square))
        for kernel in self.parameters():
            nn.init.kaiming_uniform_(kernel, a=math.sqrt(5))
        bound = 1 / math.sqrt(9 * in_channels)
        self.biases = nn.ParameterList(
            nn.Parameter(torch.empty(in_channels).uniform_(-bound, bound)) for _ in range(5)
        )
        self.norm = nn.Identity() if act is None else nn.BatchNorm2d(in_channels)
        self.act = get_activation(act)

    def kernel(self) -> Tensor:
        """(C, C, 3, 3)."""
        middle = self.central.new_zeros(3, 3)
        middle[1, 1] = 1
        central = self.central - middle * self.central.sum((2, 3), keepdim=True)
        h, v = self.horizontal, self.vertical
        horizontal = torch.stack([h, torch.zeros_like(h), -h], dim=3)
        vertical = torch.stack([v, torch.zeros_like(v), -v], dim=2)
        turned = self.angular.flatten(2)[..., list(TURNED)].view_as(self.angular)
        return central + horizontal + vertical + (self.angular - turned) + self.plain

    def bias(self) -> Tensor:
        """(C,), of the five kernels together."""
        return torch.stack(list(self.biases)).sum(0)

    def forward(self, x: Tensor) -> Tensor:
        if "conv" in self._modules:
            return self.act(self.conv(x))
        x = nn.functional.conv2d(x, self.kernel(), self.bias(), padding=1)
        return self.act(self.norm(x))

    def convert_to_deploy(self) -> None:
        """Keeps the one kernel, the norm within it."""
        if "conv" in self._modules:
            return
        conv = convolution_of(self.kernel(), self.bias())
        if isinstance(self.norm, nn.BatchNorm2d):
            conv = fused_convolution(conv, self.norm)
        self.conv = conv
        del self.central, self.horizontal, self.vertical, self.angular, self.plain
        del self.biases, self.norm
