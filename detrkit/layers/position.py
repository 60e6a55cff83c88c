"""Two-dimensional sine position embedding."""

from __future__ import annotations

import torch
from torch import Tensor


def sincos_2d(h: int, w: int, channels: int, temperature: float = 10000.0) -> Tensor:
    """Sines and cosines of x, then of y. Returns (1, h·w, channels) float32.

    The authors of RT-DETR and its successors list the positions with x as the outer index while
    features are flattened with y as the outer index. Their weights are trained this way, so we
    do the same: on square maps it swaps x and y, on others it mixes rows.

    Args:
        h, w: size of the feature map.
        channels: divisible by four.
        temperature: of the geometric frequency series.

    Raises:
        ValueError: `channels` is not divisible by four.
    """
    if channels % 4:
        raise ValueError(f"a 2D sine embedding needs channels divisible by 4, got {channels}")
    omega = torch.arange(channels // 4, dtype=torch.float32) / (channels // 4)
    omega = 1.0 / temperature**omega
    x, y = torch.meshgrid(torch.arange(w).float(), torch.arange(h).float(), indexing="ij")
    at_x = x.reshape(-1, 1) * omega
    at_y = y.reshape(-1, 1) * omega
    return torch.cat([at_x.sin(), at_x.cos(), at_y.sin(), at_y.cos()], dim=1)[None]
