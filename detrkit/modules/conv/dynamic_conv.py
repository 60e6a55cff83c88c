"""ParameterNet: Parameters Are All You Need for Large-scale Visual Pretraining of Mobile Networks.
Han et al., CVPR 2024, arXiv:2306.14525.

W = sum_e σ(A GAP(x))_e · W_e,  y = W * x

The operator is CondConv, Yang et al., NeurIPS 2019, arXiv:1904.04971: σ does not make the experts
add up to one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detrkit.layers.conv import norm_act
from detrkit.ops.per_image import conv2d_per_image
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="conv",
    paper="arXiv:2306.14525",
    venue="CVPR 2024",
    example={"in_channels": 8, "out_channels": 12, "kernel_size": 3},
    traits=Traits(),
)
class DynamicConv(nn.Module):
    """A convolution whose kernel is mixed for every image. (B, in, H, W) -> (B, out, H/s, W/s).

    Args:
        in_channels: C.
        out_channels: width of the result; None keeps C.
        kernel_size: k, odd.
        stride: s.
        groups: of the convolution.
        num_experts: kernels that are mixed.
        act: activation behind a batch norm; None: neither, as in the paper.

    Raises:
        ValueError: k is even.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        num_experts: int = 4,
        act: str | nn.Module | None = None,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.out_channels = out = out_channels or in_channels
        self.stride, self.groups = stride, groups
        self.shape = (out, in_channels // groups, kernel_size, kernel_size)
        self.routing = nn.Linear(in_channels, num_experts)
        self.experts = nn.Parameter(torch.empty(num_experts, math.prod(self.shape)))
        for expert in self.experts.detach():
            nn.init.kaiming_uniform_(expert.view(self.shape), a=math.sqrt(5))
        self.last = norm_act(out, act)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.routing(x.mean((2, 3))).sigmoid()  # (B, E)
        weight = (shares @ self.experts).unflatten(1, self.shape)
        padding = self.shape[-1] // 2
        return self.last(
            conv2d_per_image(x, weight, None, self.stride, padding, groups=self.groups)
        )
