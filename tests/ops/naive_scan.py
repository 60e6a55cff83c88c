"""S6 as it is written down."""

from __future__ import annotations

import torch
from torch import Tensor


def stepwise(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> Tensor:
    """One channel and one step after another."""
    out = torch.empty_like(u)
    per_group = u.shape[1] // B.shape[1]
    for image in range(u.shape[0]):
        for d in range(u.shape[1]):
            h = torch.zeros_like(A[d])
            for t in range(u.shape[2]):
                delta = torch.log1p((dt[image, d, t] + bias[d]).exp())
                b, c = (m[image, d // per_group, :, t] for m in (B, C))
                h = (delta * A[d]).exp() * h + delta * b * u[image, d, t]
                out[image, d, t] = (c * h).sum() + D[d] * u[image, d, t]
    return out
