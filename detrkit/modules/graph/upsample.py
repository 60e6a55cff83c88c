"""Plain enlargement."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.registry import MODULES, Traits


@MODULES.register(
    "Upsample",
    "nn.Upsample",
    family="graph",
    paper="plain",
    example={"in_channels": 4},
    traits=Traits(scale=2),
)
class Upsample(nn.Module):
    """Doubles the sides. (B, C, H, W) -> (B, C, 2H, 2W).

    Args:
        in_channels: C.
        size: accepted where lists of layers write `[None, 2, nearest]`; must be None.
        scale_factor: must be 2.
        mode: "nearest" or "bilinear".
    """

    def __init__(
        self,
        in_channels: int,
        size: str | None = None,
        scale_factor: int = 2,
        mode: str = "nearest",
    ) -> None:
        super().__init__()
        if size not in (None, "None") or scale_factor != 2:
            raise ValueError(
                f"only doubling is known, got size {size}, scale_factor {scale_factor}"
            )
        if mode not in ("nearest", "bilinear"):
            raise ValueError(f"mode must be nearest or bilinear, got {mode}")
        self.out_channels = in_channels
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode=self.mode)
