"""FFT-based Dynamic Token Mixer for Vision (DFFormer). Tatsunami and Taki, AAAI 2024,
arXiv:2303.03932.

w = softmax over f of (V2 StarReLU(V1 mean x))          share of each filter f in each channel
y = W2 IFFT((sum over f of w_f K_f) · FFT(StarReLU(W1 x)))        section 3.2

Without shortcut: a MetaFormer block has it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.activations import StarReLU
from detrkit.layers.windows import Side, sides_of
from detrkit.modules.block.metaformer import PixelLinear
from detrkit.ops.precision import precise
from detrkit.ops.spectrum import irfft2, rfft2
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="module",
    paper="arXiv:2303.03932",
    venue="AAAI 2024",
    example={"in_channels": 16, "size": 8},
    traits=Traits(onnx="a Fourier transform of the map", float32="the transform"),
)
class DynamicFilter(nn.Module):
    """Global filters, mixed for each image and channel. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        size: of the map for which the filters are stored, one side or (h, w); for other maps
            they are interpolated.
        expansion: width of the filtered map, relative to C.
        route_ratio: width of the layer that mixes filters, relative to C.
        num_filters: F.

    Raises:
        ValueError: `route_ratio` gives no channel.
    """

    def __init__(
        self,
        in_channels: int,
        size: Side = 20,
        expansion: float = 2.0,
        route_ratio: float = 0.25,
        num_filters: int = 4,
    ) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        wide, narrow = int(c * expansion), int(c * route_ratio)
        if narrow < 1:
            raise ValueError(f"route_ratio {route_ratio} of {c} channels gives none")
        height, width = sides_of(size)
        self.num_filters = num_filters
        self.enter = nn.Sequential(PixelLinear(c, wide), StarReLU())
        self.route = nn.Sequential(
            nn.Linear(c, narrow, bias=False),
            StarReLU(),
            nn.Linear(narrow, num_filters * wide, bias=False),
        )
        #: Real and imaginary parts of the half spectra: (h, w // 2 + 1, F, 2).
        self.filters = nn.Parameter(0.02 * torch.randn(height, width // 2 + 1, num_filters, 2))
        self.leave = PixelLinear(wide, c)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        routes = self.route(x.mean((2, 3))).unflatten(1, (self.num_filters, -1)).softmax(1)
        y = self.enter(x)
        with torch.autocast(x.device.type, enabled=False):
            filters = self.resized(size[0], size[1] // 2 + 1)
            mixed = torch.einsum("bfc,rfhw->bchwr", precise(routes), precise(filters))
            y = irfft2(rfft2(y, "ortho") * torch.view_as_complex(mixed.contiguous()), size, "ortho")
        return self.leave(y.to(x.dtype))

    def resized(self, height: int, width: int) -> Tensor:
        """(2, F, height, width): the filters' real and imaginary parts for a half spectrum."""
        parts = self.filters.permute(3, 2, 0, 1)
        if parts.shape[2:] == (height, width):
            return parts
        return F.interpolate(parts, (height, width), mode="bicubic", align_corners=True)
