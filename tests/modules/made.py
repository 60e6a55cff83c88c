"""Modules with every number moved, for tests against a second way to compute them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detrkit.registry import MODULES


def made(name: str, seed: int = 0, **arguments: Any) -> Any:
    """The component `name` in evaluation, float64, with weights and statistics of no pattern."""
    torch.manual_seed(seed)
    return moved(MODULES.create(name, **arguments))


def moved(module: nn.Module) -> Any:
    """`module` in evaluation, float64, with weights and statistics moved."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return module.double().eval()


def maps(*shape: int, seed: int = 1) -> Tensor:
    """Random maps, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def same(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    """Equal up to rounding."""
    a, b = a.detach(), b.detach()
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))
