"""UniRepLKNet: A Universal Perception Large-Kernel ConvNet for Audio, Video, Point Cloud,
Time-Series and Image Recognition. Ding et al., CVPR 2024, arXiv:2311.15599.

u = SE(BN(DW_K×K(x)))                              section 3.1; `DilatedReparamBlock` from K = 7
y = x + γ · BN(W2 GRN(gelu(W1 u)))

In deployment one K×K convolution and two 1×1 convolutions stay: W2 takes the β of GRN, the last
norm and γ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import fused_convolution
from detrkit.layers.depthwise import depthwise
from detrkit.layers.drop_path import DropPath
from detrkit.layers.layer_scale import LayerScale2d
from detrkit.layers.response_norm import GlobalResponseNorm
from detrkit.layers.squeeze_excite import SqueezeExcite
from detrkit.modules.conv.dilated_reparam import DilatedReparamBlock
from detrkit.registry import MODULES, Traits


class NormedLargeKernel(nn.Module):
    """Large depthwise kernel and batch norm, one convolution afterwards. (B, C, H, W) -> same.

    Args:
        channels: C.
        kernel_size: K.
        branches: of `DilatedReparamBlock`; empty: a plain convolution.
    """

    def __init__(
        self, channels: int, kernel_size: int, branches: Sequence[tuple[int, int]] | None = None
    ) -> None:
        super().__init__()
        self.conv: nn.Module
        if branches is not None and not branches:
            self.conv = depthwise(channels, kernel_size, bias=False)
        else:
            self.conv = DilatedReparamBlock(channels, kernel_size, branches)
        self.norm: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def convert_to_deploy(self) -> None:
        """Adds up the kernels and folds the norm."""
        if not isinstance(self.norm, nn.BatchNorm2d):
            return
        if isinstance(self.conv, DilatedReparamBlock):
            self.conv.convert_to_deploy()
            self.conv = self.conv.conv
        assert isinstance(self.conv, nn.Conv2d)
        self.conv, self.norm = fused_convolution(self.conv, self.norm), nn.Identity()


@MODULES.register(
    family="module",
    paper="arXiv:2311.15599",
    venue="CVPR 2024",
    example={"in_channels": 16, "kernel_size": 7},
    traits=Traits(float32="norms of channels"),
)
class UniRepLKNetBlock(nn.Module):
    """Large kernel, squeeze and excitation, feed-forward. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        kernel_size: K: 3 or 5 (one kernel), 7 to 17 (with dilated ones beside it).
        mlp_ratio: width of the feed-forward part, relative to C.
        layer_scale: first value of γ; with the paper's an untrained block does nearly nothing.
        drop_path: rate at which training leaves the branch out.

    Raises:
        ValueError: another kernel size.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 7,
        mlp_ratio: float = 4.0,
        layer_scale: float = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        hidden = int(c * mlp_ratio)
        self.large = NormedLargeKernel(c, kernel_size, () if kernel_size in (3, 5) else None)
        self.squeeze = SqueezeExcite(c, max(1, c // 4))
        self.fc1 = nn.Conv2d(c, hidden, 1)
        self.response = GlobalResponseNorm(hidden)
        self.fc2 = nn.Conv2d(hidden, c, 1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(c)
        self.scale: nn.Module = LayerScale2d(c, layer_scale)
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.response(F.gelu(self.fc1(self.squeeze(self.large(x)))))
        return x + self.drop(self.scale(self.norm(self.fc2(y))))

    @torch.no_grad()
    def convert_to_deploy(self) -> None:
        """Folds β, the last norm and γ into the second 1×1 convolution."""
        if not isinstance(self.norm, nn.BatchNorm2d):
            return
        assert isinstance(self.scale, LayerScale2d)
        assert self.response.beta is not None
        gamma = self.scale.gamma
        fused = fused_convolution(self.fc2, self.norm)
        assert fused.bias is not None
        fused.bias += fused.weight.flatten(1) @ self.response.beta.flatten()
        fused.weight *= gamma[:, None, None, None]
        fused.bias *= gamma
        self.fc2, self.norm, self.scale = fused, nn.Identity(), nn.Identity()
        self.response.beta = None
