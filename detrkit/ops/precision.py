"""What must not be computed in half precision, and outputs that are no longer in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def precise(x: Tensor) -> Tensor:
    """In float32 at least: half precision is widened, float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def upcast(outputs: Any) -> Any:
    """Floating-point tensors inside dicts, lists and tuples as float32; the rest as it is."""
    if isinstance(outputs, Tensor):
        low = outputs.dtype in (torch.bfloat16, torch.float16)
        return outputs.float() if low else outputs
    if isinstance(outputs, dict):
        return {name: upcast(value) for name, value in outputs.items()}
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):  # a named tuple
        return type(outputs)(*map(upcast, outputs))
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(upcast(value) for value in outputs)
    return outputs
