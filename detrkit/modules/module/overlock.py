"""OverLoCK: An Overview-first-Look-Closely-next ConvNet with Context-Mixing Dynamic Kernels.
Lou and Yu, CVPR 2025, arXiv:2502.20087.

x <- x + DW3×3(x)
u = SE(BN(DW_K×K(LN(x)))),   v = gelu(W1 u)
y = x + l · (W2 GRN(v + DW3×3(v)))                 or, from the second stage on, l · x + W2 …

The dilated kernels beside the large one are not those of UniRepLKNet.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.layers.drop_path import DropPath
from detrkit.layers.norm import LayerNorm2d
from detrkit.layers.response_norm import GlobalResponseNorm
from detrkit.layers.squeeze_excite import SqueezeExcite
from detrkit.modules.module.unireplk import NormedLargeKernel
from detrkit.registry import MODULES, Traits

#: Kernel sizes and dilations of the branches beside a kernel of each size.
BRANCHES = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 1), (3, 2), (3, 3)),
    9: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (7, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    19: ((5, 1), (7, 1), (9, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}


@MODULES.register(
    family="module",
    paper="arXiv:2502.20087",
    venue="CVPR 2025",
    example={"in_channels": 16, "layer_scale": 1.0},
    traits=Traits(float32="norms of channels"),
)
class RepConvBlock(nn.Module):
    """Large kernel and gated feed-forward part in one branch. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        kernel_size: K, odd, 5 to 19.
        mlp_ratio: width of the feed-forward part, relative to C.
        layer_scale: first value of a learned factor l, with a bias; None: there is none.
        res_scale: the factor is the shortcut's, not the branch's.
        drop_path: rate at which training leaves the branch out.

    Raises:
        ValueError: another kernel size, or `res_scale` without `layer_scale`.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 7,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        res_scale: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if kernel_size not in BRANCHES:
            raise ValueError(f"kernel_size must be one of {list(BRANCHES)}, got {kernel_size}")
        if res_scale and layer_scale is None:
            raise ValueError("res_scale needs a layer_scale, such as 1.0")
        self.out_channels = c = in_channels
        hidden = int(c * mlp_ratio)
        self.position = depthwise(c, 3)
        self.norm = LayerNorm2d(c)
        self.large = NormedLargeKernel(c, kernel_size, BRANCHES[kernel_size])
        self.squeeze = SqueezeExcite(c, max(16, c // 8), act="gelu")
        self.fc1 = nn.Conv2d(c, hidden, 1)
        self.dwconv = depthwise(hidden, 3)
        self.response = GlobalResponseNorm(hidden)
        self.fc2 = nn.Conv2d(hidden, c, 1)
        self.scale = nn.Identity() if layer_scale is None else _affine(c, layer_scale)
        self.res_scale = res_scale
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position(x)
        v = F.gelu(self.fc1(self.squeeze(self.large(self.norm(x)))))
        y = self.fc2(self.response(v + self.dwconv(v)))
        if self.res_scale:
            return self.scale(x) + self.drop(y)
        return x + self.drop(self.scale(y))


def _affine(channels: int, start: float) -> nn.Conv2d:
    """A factor and a bias per channel."""
    conv = depthwise(channels, 1)
    nn.init.constant_(conv.weight, start)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
