"""What the families' tests share: modules with moved weights, pieces of transcriptions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detrkit.registry import MODULES


def moved(module: nn.Module, seed: int = 0) -> Any:
    """In evaluation and float64, with random weights and statistics; constants stay."""
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.requires_grad or name.endswith(("running_mean", "running_var")):
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(noise + 0.5 if name.endswith("running_var") else noise - 0.4)
    return module


def made(name: str, /, **arguments: Any) -> Any:
    """The registered module `name`, moved."""
    return moved(MODULES.create(name, **arguments))


def image(*shape: int, seed: int = 1) -> Tensor:
    """A random float64 map."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def per_pixel(layer: Any, x: Tensor) -> Tensor:
    """A linear layer or 1x1 convolution by its weight, at every pixel of (C, H, W)."""
    weight = layer.weight.flatten(1)
    out = torch.einsum("oc,chw->ohw", weight, x)
    return out if layer.bias is None else out + layer.bias[:, None, None]


def softmax(x: Tensor, dim: int) -> Tensor:
    """By its definition."""
    e = (x - x.amax(dim, keepdim=True)).exp()
    return e / e.sum(dim, keepdim=True)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def same(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
