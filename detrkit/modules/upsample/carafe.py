"""CARAFE: Content-Aware ReAssembly of FEatures. Wang et al., ICCV 2019, arXiv:1905.02188.

m = softmax over k²(shuffle_s(conv(PW(x))))                                eq. 1
y(p) = sum over the k × k neighbours q of ⌊p / s⌋: m_pq · x(q)             eq. 2, 4
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="upsample",
    paper="arXiv:1905.02188",
    venue="ICCV 2019",
    example={"in_channels": 16, "up_group": 2, "compressed_channels": 8},
    traits=Traits(scale=2.0),
)
class CARAFE(nn.Module):
    """Upsampling with kernels that the map itself tells. (B, C, H, W) -> (B, C, sH, sW).

    Args:
        in_channels: C.
        scale: s.
        up_kernel: k, odd.
        up_group: parts of the channels with kernels of their own; divides C.
        encoder_kernel: side of the convolution that makes the kernels, odd.
        compressed_channels: its input's width.

    Raises:
        ValueError: a side is even, or `up_group` does not divide C.
    """

    def __init__(
        self,
        in_channels: int,
        scale: int = 2,
        up_kernel: int = 5,
        up_group: int = 1,
        *,
        encoder_kernel: int = 3,
        compressed_channels: int = 64,
    ) -> None:
        super().__init__()
        for side in (up_kernel, encoder_kernel):
            if side % 2 == 0:
                raise ValueError(f"kernel sides must be odd, got {side}")
        if in_channels % up_group:
            raise ValueError(f"in_channels {in_channels} is no multiple of up_group {up_group}")
        self.out_channels = in_channels
        self.scale, self.up_kernel, self.up_group = scale, up_kernel, up_group
        self.compress: nn.Module = nn.Conv2d(in_channels, compressed_channels, 1)
        self.encode: nn.Module = nn.Conv2d(
            compressed_channels,
            up_kernel**2 * up_group * scale**2,
            encoder_kernel,
            padding=encoder_kernel // 2,
        )
        nn.init.xavier_uniform_(self.compress.weight)  # type: ignore[arg-type]
        nn.init.normal_(self.encode.weight, std=0.001)  # type: ignore[arg-type]
        for conv in (self.compress, self.encode):
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        masks = F.pixel_shuffle(self.encode(self.compress(x)), self.scale)
        masks = masks.unflatten(1, (self.up_group, -1)).softmax(2)  # (B, G, k², sH, sW)
        return reassembled(x, masks, self.up_kernel, self.scale)


def reassembled(x: Tensor, masks: Tensor, side: int, scale: int) -> Tensor:
    """Sums of neighbours, tap by tap: unfolding would take k² times the memory of the result.

    Args:
        x: (B, C, H, W).
        masks: (B, G, k², sH, sW), the neighbours row by row.
        side: k.
        scale: s.

    Returns:
        (B, C, sH, sW).
    """
    height, width = x.shape[-2:]
    groups = masks.shape[1]
    # (B, G, C/G, H, 1, W, 1): each pixel serves s × s of the result
    padded = F.pad(x, [side // 2] * 4).unflatten(1, (groups, -1))[:, :, :, :, None, :, None]
    cells = masks.unflatten(4, (-1, scale)).unflatten(3, (-1, scale))[:, :, :, None]
    total: Tensor | None = None
    for tap in range(side**2):
        row, column = divmod(tap, side)
        pixels = padded[:, :, :, row : row + height, :, column : column + width]
        term = pixels * cells[:, :, tap]
        total = term if total is None else total + term
    assert total is not None
    return total.to(x.dtype).flatten(1, 2).flatten(4, 5).flatten(2, 3)
