"""Efficient Deformable ConvNets: Rethinking Dynamic and Sparse Operator for Vision Applications
(DCNv4). Xiong et al., CVPR 2024, arXiv:2401.06197.

y(p) = W_out sum_k m_gk · (W_in x)_g(p + p_k + Δp_gk)

The weights m have no softmax: they may be of any size and sign. One linear map gives offsets and
weights. It starts at zero, so that only the output's bias comes
through at first. As in the authors' module, whose CUDA kernel it feeds, its width is a multiple
of 8 and the last numbers are unused; unlike there, a group may have any width. Their kernel runs
on GPUs where the package `DCNv4` is installed and groups are multiples of 16 wide.
"""

from __future__ import annotations

from torch import Tensor, nn

from detrkit.layers.conv import norm_act
from detrkit.layers.depthwise import depthwise
from detrkit.modules.conv.dcnv3 import check_points
from detrkit.ops.deform_aggregation import aggregated
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="conv",
    paper="arXiv:2401.06197",
    venue="CVPR 2024",
    example={"in_channels": 16, "group": 4, "dw_kernel_size": 3},
    traits=Traits(float32="places of samples"),
)
class DCNv4(nn.Module):
    """Sums at points that move, with weights of any sign. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        kernel_size: k, odd: k² points.
        dilation: pixels between points before they move.
        group: parts of the channels with points of their own; divides C.
        dw_kernel_size: side of a depthwise convolution before offsets and weights; None: none.
        offset_scale: factor of all places of points.
        output_bias: whether the last linear map has one.
        act: activation behind a batch norm; None: neither, as in the paper.

    Raises:
        ValueError: k is even, or `group` does not divide C.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 3,
        *,
        dilation: int = 1,
        group: int = 4,
        dw_kernel_size: int | None = None,
        offset_scale: float = 1.0,
        output_bias: bool = True,
        act: str | nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_points(in_channels, kernel_size, group)
        self.out_channels = c = in_channels
        self.kernel_size, self.points = kernel_size, kernel_size**2
        self.group, self.dilation, self.offset_scale = group, dilation, offset_scale
        self.value = nn.Linear(c, c)
        self.spatial: nn.Module = nn.Identity()
        if dw_kernel_size:
            self.spatial = depthwise(c, dw_kernel_size)
        self.used = 3 * group * self.points
        self.places = nn.Linear(c, -(-self.used // 8) * 8)
        nn.init.zeros_(self.places.weight)
        nn.init.zeros_(self.places.bias)
        self.output = nn.Linear(c, c, bias=output_bias)
        self.last = norm_act(c, act)

    def forward(self, x: Tensor) -> Tensor:
        value = self.value(x.permute(0, 2, 3, 1))
        places = self.places(self.spatial(x).permute(0, 2, 3, 1))[..., : self.used]
        places = places.unflatten(-1, (self.group, -1))  # (B, H, W, G, 3k²)
        offsets, weights = places.split([2 * self.points, self.points], dim=-1)
        out = aggregated(
            value,
            offsets.unflatten(-1, (-1, 2)),
            weights,
            self.kernel_size,
            dilation=self.dilation,
            offset_scale=self.offset_scale,
        )
        return self.last(self.output(out).permute(0, 3, 1, 2))
