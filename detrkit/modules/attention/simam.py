"""SimAM: a Simple, Parameter-Free Attention Module. Yang et al., ICML 2021, PMLR v139.

e = (x - mean)² / (4 (var + λ)) + 1/2        inverse energy of a pixel, eq. 5
y = x · sigmoid(e)                           eq. 6
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.errors import MapSizeError
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="attention",
    paper="PMLR v139 (yang21o)",
    venue="ICML 2021",
    example={"in_channels": 16},
    traits=Traits(smallest=2, float32="squares of small differences"),
)
class SimAM(nn.Module):
    """Weighs every value by how far it stands out of its channel. (B, C, H, W) -> (B, C, H, W).

    Without parameters. A map of a single pixel has no variance and is refused.

    Args:
        in_channels: C.
        e_lambda: λ.
    """

    def __init__(self, in_channels: int, e_lambda: float = 1e-4) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.e_lambda = e_lambda

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.shape[2] * x.shape[3]
        if pixels < 2:
            raise MapSizeError("SimAM needs a map of at least two pixels, got 1x1")
        with torch.autocast(x.device.type, enabled=False):
            square = (x.float() - x.float().mean((2, 3), keepdim=True)).square()
            variance = square.sum((2, 3), keepdim=True) / (pixels - 1)
            gate = (square / (4 * (variance + self.e_lambda)) + 0.5).sigmoid()
        return x * gate.to(x.dtype)
