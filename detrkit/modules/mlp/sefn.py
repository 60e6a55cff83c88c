"""SEM-Net: Efficient Pixel Modelling for Image Inpainting with Spatially Enhanced SSM. Chen et al.,
WACV 2025, arXiv:2411.06318.

[a, b] = dw3x3(W x)
s' = up(twice relu(layernorm(conv3x3(·))) of avgpool2(s))      s: the block's own input
y  = P (gelu(dw3x3(conv([a, s']))) · b)

s' is brought to the size of a, so that odd sides are allowed too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import MapSizeError
from detrkit.layers.depthwise import depthwise
from detrkit.layers.norm import LayerNorm2d
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="mlp",
    paper="arXiv:2411.06318",
    venue="WACV 2025",
    example={"in_channels": [16, 16], "hidden_channels": 32},
    traits=Traits(smallest=2),
)
class SEFN(nn.Module):
    """A feed-forward net gated by the block's input. [2 x (B, C, H, W)] -> (B, out, H, W).

    The maps are the normed feature and, of the same shape, what the block got before its norm.

    Args:
        in_channels: widths of both maps, C each.
        hidden_channels: of gate and value; None: 2 · C.
        out_channels: None: C.
        bias: of all convolutions but the two of the spatial branch, which have one.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        hidden_channels: int | None = None,
        out_channels: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if len(in_channels) != 2 or in_channels[0] != in_channels[1]:
            raise ValueError(f"SEFN needs two maps of the same width, got {list(in_channels)}")
        width = in_channels[0]
        hidden = hidden_channels or 2 * width
        self.out_channels = out_channels or width
        self.project_in = nn.Sequential(
            nn.Conv2d(width, 2 * hidden, 1, bias=bias), depthwise(2 * hidden, 3, bias=bias)
        )
        layers = [
            (nn.Conv2d(width, width, 3, padding=1), LayerNorm2d(width, eps=1e-5), nn.ReLU())
            for _ in range(2)
        ]
        self.spatial = nn.Sequential(nn.AvgPool2d(2), *layers[0], *layers[1])
        self.fuse = nn.Sequential(
            nn.Conv2d(hidden + width, hidden, 1, bias=bias), depthwise(hidden, 3, bias=bias)
        )
        self.project_out = nn.Conv2d(hidden, self.out_channels, 1, bias=bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x, spatial = maps
        if min(x.shape[-2:]) < 2:
            raise MapSizeError(
                f"SEFN needs a map of at least 2 pixels a side, got {x.shape[2]}x{x.shape[3]}"
            )
        gate, value = self.project_in(x).chunk(2, dim=1)
        spatial = F.interpolate(self.spatial(spatial), size=x.shape[2:], mode="nearest")
        gate = self.fuse(torch.cat([gate, spatial], dim=1))
        return self.project_out(F.gelu(gate) * value)
