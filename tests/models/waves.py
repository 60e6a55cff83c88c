"""Weights and inputs that any implementation can make again: sine waves, in state-dict order.

Numbers computed with the official modules filled in this way are a fixed point for ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def wave(shape: tuple[int, ...] | torch.Size, phase: float) -> Tensor:
    """float64 in [-1, 1]."""
    count = math.prod(shape)
    steps = torch.arange(count, dtype=torch.float64)
    return torch.sin(steps * (0.7 + 0.013 * (phase % 11)) + phase).reshape(shape)


def fill(module: nn.Module) -> nn.Module:
    """Makes `module` float64 with waves for weights and statistics."""
    module.double()
    for index, (name, value) in enumerate(module.state_dict().items()):
        if not value.is_floating_point():
            continue
        values = wave(value.shape, index)
        if value.dim() > 1:
            values = values * (3 / math.prod(value.shape[1:])) ** 0.5
        elif name.endswith(("weight", "running_var", "scale")):
            values = 1 + 0.3 * values
        else:
            values = 0.2 * values
        value.copy_(values)
    return module


def digest(maps: list[Tensor]) -> list[tuple[float, float]]:
    """Mean and mean magnitude of each map."""
    return [(x.mean().item(), x.abs().mean().item()) for x in maps]
