"""InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions.
Wang et al., CVPR 2023, arXiv:2211.05778.

y(p) = W_out sum_k m_gk · (W_in x)_g(p + p_k + Δp_gk),  m = softmax over k

Offsets and masks are linear maps of gelu(LN(DW(x))) that start at zero.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import norm_act
from detrkit.layers.depthwise import depthwise
from detrkit.layers.norm import LayerNorm2d
from detrkit.ops.deform_aggregation import aggregated
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="conv",
    paper="arXiv:2211.05778",
    venue="CVPR 2023",
    example={"in_channels": 16, "group": 4},
    traits=Traits(float32="places of samples"),
)
class DCNv3(nn.Module):
    """Attention to points that move, without a kernel. (B, C, H, W) -> (B, C, H/s, W/s).

    Args:
        in_channels: C.
        kernel_size: k, odd: k² points.
        stride: s; dilation: pixels between points before they move.
        group: parts of the channels with points of their own; divides C.
        dw_kernel_size: side of the depthwise convolution before offsets and masks; None: k.
        offset_scale: factor of all places of points.
        center_feature_scale: whether a gate mixes in the value at the pixel itself; at stride 1.
        act: activation behind a batch norm; None: neither, as in the paper.

    Raises:
        ValueError: k is even, `group` does not divide C, or the gate meets another stride.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        dilation: int = 1,
        group: int = 4,
        dw_kernel_size: int | None = None,
        offset_scale: float = 1.0,
        center_feature_scale: bool = False,
        act: str | nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_points(in_channels, kernel_size, group)
        if center_feature_scale and stride != 1:
            raise ValueError(f"center_feature_scale needs stride 1, got {stride}")
        self.out_channels = c = in_channels
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
        self.group, self.offset_scale = group, offset_scale
        side = dw_kernel_size or kernel_size
        self.value = nn.Linear(c, c)
        self.spatial = depthwise(c, side, stride=stride)
        self.norm = LayerNorm2d(c)
        self.offset = nn.Linear(c, group * kernel_size**2 * 2)
        self.mask = nn.Linear(c, group * kernel_size**2)
        for linear in (self.offset, self.mask):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.center = nn.Linear(c, group) if center_feature_scale else None
        self.output = nn.Linear(c, c)
        self.last = norm_act(c, act)

    def forward(self, x: Tensor) -> Tensor:
        value = self.value(x.permute(0, 2, 3, 1))  # (B, H, W, C)
        query = F.gelu(self.norm(self.spatial(x))).permute(0, 2, 3, 1)
        weights = self.mask(query).unflatten(-1, (self.group, -1)).softmax(-1)
        offsets = self.offset(query).unflatten(-1, (self.group, -1, 2))
        out = aggregated(
            value,
            offsets,
            weights,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.offset_scale,
        )  # (B, H', W', C)
        if self.center is not None:
            gate = self.center(query).sigmoid().repeat_interleave(value.shape[-1] // self.group, -1)
            out = out * (1 - gate) + value * gate
        return self.last(self.output(out).permute(0, 3, 1, 2))


def check_points(channels: int, kernel_size: int, group: int) -> None:
    """Raises ValueError unless points and groups can be laid out."""
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {kernel_size}")
    if channels % group:
        raise ValueError(f"in_channels {channels} is no multiple of group {group}")
