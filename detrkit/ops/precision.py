"""What must not be computed in half precision."""

from __future__ import annotations

import torch
from torch import Tensor


def precise(x: Tensor) -> Tensor:
    """In float32 at least: half precision is widened, float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
