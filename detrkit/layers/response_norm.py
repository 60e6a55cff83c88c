"""Global response norm: competition between channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def response_norm(x: Tensor, gamma: Tensor, beta: Tensor | None) -> Tensor:
    """(γ n + 1) x + β, n = |x_c| / mean of all |x_c|, norms over H and W. (B, C, H, W) -> same.

    ConvNeXt V2, Woo et al., CVPR 2023, arXiv:2301.00808, eq. 1–3.

    Args:
        x: (B, C, H, W).
        gamma, beta: (1, C, 1, 1); β may be None.
    """
    with torch.autocast(x.device.type, enabled=False):
        size = x.to(torch.promote_types(x.dtype, torch.float32)).norm(dim=(2, 3), keepdim=True)
        n = (size / (size.mean(1, keepdim=True) + 1e-6)).to(x.dtype)
    y = (gamma * n + 1) * x
    return y if beta is None else y + beta


class GlobalResponseNorm(nn.Module):
    """`response_norm` with learned γ and β, zero at first. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
    """

    beta: Tensor | None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return response_norm(x, self.gamma, self.beta)
