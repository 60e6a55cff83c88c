"""nnWNet: Rethinking the Use of Transformers in Biomedical Image Segmentation and Calling for a
Unified Evaluation Benchmark. Zhou et al., CVPR 2025. The 2-D form.

global:   x <- conv3×3(x),   x <- x + mean3×3(n) - n,   x <- x + W gelu(W n),   n = norm(x)
local:    h = gelu(BN(conv3×3(gelu(BN(conv3×3(x))))) + x),   then nothing, half or twice the size

The norm of the global block is that of all values of an image. Copies in circulation give
activations as classes and so compute the local block without; here they are applied.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.registry import MODULES, Traits


@MODULES.register(
    "GlobalBlock",
    "global_block",
    family="module",
    paper="CVPR 2025 (nnWNet)",
    venue="CVPR 2025",
    example={"in_channels": 16},
    traits=Traits(),
)
class GlobalBlock(nn.Module):
    """A convolution, then a PoolFormer block. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        out_channels: None: C.
        pool_size: odd side of the means.
        mlp_ratio: width of the feed-forward part, relative to `out_channels`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        pool_size: int = 3,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.out_channels = c = out_channels or in_channels
        hidden = int(c * mlp_ratio)
        self.enter = nn.Conv2d(in_channels, c, 3, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(1, c), nn.GroupNorm(1, c)
        self.pool = nn.AvgPool2d(pool_size, 1, pool_size // 2, count_include_pad=False)
        self.mlp = nn.Sequential(nn.Conv2d(c, hidden, 1), nn.GELU(), nn.Conv2d(hidden, c, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        n = self.norm1(x)
        x = x + self.pool(n) - n
        return x + self.mlp(self.norm2(x))


@MODULES.register(
    "LocalBlock",
    "local_block",
    family="module",
    paper="CVPR 2025 (nnWNet)",
    venue="CVPR 2025",
    example={"in_channels": 16, "out_channels": 24},
    traits=Traits(),
)
class LocalBlock(nn.Module):
    """A residual block, and maybe another size. (B, C, H, W) -> (B, out, H', W').

    Args:
        in_channels: C.
        out_channels: None: `hidden_channels`.
        hidden_channels: of the residual block; None: `out_channels`, or C.
        resize: "down" halves the sides, odd ones are rounded up, "up" doubles them.

    Raises:
        ValueError: another `resize`, or widths that differ without one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        hidden_channels: int | None = None,
        resize: Literal["down", "up"] | None = None,
    ) -> None:
        super().__init__()
        if resize not in (None, "down", "up"):
            raise ValueError(f"resize must be down, up or None, got {resize!r}")
        hidden = hidden_channels or out_channels or in_channels
        self.out_channels = out_channels or hidden
        if resize is None and hidden != self.out_channels:
            raise ValueError(
                f"without resize hidden_channels is out_channels {out_channels}, got {hidden}"
            )
        self.conv1 = ConvNormAct(in_channels, hidden, 3, bias=True, act="gelu")
        self.conv2 = ConvNormAct(hidden, hidden, 3, bias=True)
        self.shortcut = (
            nn.Identity()
            if in_channels == hidden
            else ConvNormAct(in_channels, hidden, 1, bias=True)
        )
        self.resize = resize
        self.leave: nn.Module = nn.Identity()
        if resize is not None:
            stride = 2 if resize == "down" else 1
            self.leave = ConvNormAct(hidden, self.out_channels, 3, stride, act="gelu")

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.conv2(self.conv1(x)) + self.shortcut(x))
        if self.resize == "up":
            size = (2 * h.shape[2], 2 * h.shape[3])
            h = F.interpolate(h, size, mode="bilinear", align_corners=True)
        return self.leave(h)


@MODULES.register(
    family="module",
    paper="CVPR 2025 (nnWNet)",
    venue="CVPR 2025",
    example={"in_channels": 16},
    traits=Traits(scale=0.5),
)
class OPE(nn.Module):
    """Overlapping patches as pixels. (B, C, H, W) -> (B, out, ⌈H/2⌉, ⌈W/2⌉).

    Args:
        in_channels: C.
        out_channels: None: C.
    """

    def __init__(self, in_channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        self.out_channels = out_channels or in_channels
        self.layers = nn.Sequential(
            ConvNormAct(in_channels, in_channels, 3, bias=True, act="gelu"),
            ConvNormAct(in_channels, self.out_channels, 3, stride=2, act="gelu"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
