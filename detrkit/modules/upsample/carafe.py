"""CARAFE: Content-Aware ReAssembly of FEatures. Wang et al., ICCV 2019, arXiv:1905.02188.

m = softmax over k²(shuffle_s(conv(PW(x))))
y(p) = sum over the k × k neighbours q of ⌊p / s⌋: m_pq · x(q)
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
        nn.init.xavier_uniform_(self.compress.weight)
        nn.init.normal_(self.encode.weight, std=0.001)
        for conv in (self.compress, self.encode):
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        masks = self.encode(self.compress(x))
        masks = masks.unflatten(1, (self.up_group, self.up_kernel**2, -1)).softmax(2)
        return F.pixel_shuffle(reassembled(x, masks, self.up_kernel), self.scale)


def reassembled(x: Tensor, masks: Tensor, side: int) -> Tensor:
    """Sums of neighbours, tap by tap: unfolding would take k² times the memory of the result.

    Args:
        x: (B, C, H, W).
        masks: (B, G, k², s², H, W), the neighbours row by row.
        side: k.

    Returns:
        (B, C·s², H, W).
    """
    height, width = x.shape[-2:]
    padded = F.pad(x, [side // 2] * 4).unflatten(1, (masks.shape[1], -1))[:, :, :, None]
    total: Tensor | None = None
    for tap in range(side**2):
        row, column = divmod(tap, side)
        pixels = padded[..., row : row + height, column : column + width]  # (B, G, C/G, 1, H, W)
        term = pixels * masks[:, :, tap, None]
        total = term if total is None else total + term
    assert total is not None
    return total.to(x.dtype).flatten(1, 3)
