"""Views of a detector's outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def tensors(out: Any) -> list[Tensor]:
    """All tensors of an output, nested ones included."""
    if isinstance(out, Tensor):
        return [out]
    parts = out.values() if isinstance(out, dict) else out if isinstance(out, list) else ()
    return [t for part in parts for t in tensors(part)]


def loss(out: Any) -> Tensor:
    """Something that depends on every prediction."""
    skip = ("teacher_corners", "teacher_logits", "up", "reg_scale")
    out = {k: v for k, v in out.items() if k != "dn_meta"}

    def total(part: Any) -> Tensor:
        if isinstance(part, Tensor):
            return part.sin().sum()
        items = part.items() if isinstance(part, dict) else enumerate(part)
        parts = [total(v) for k, v in items if k not in skip and not isinstance(v, bool)]
        return torch.stack(parts).sum() if parts else torch.zeros(())

    return total(out)
