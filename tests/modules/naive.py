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


def unit(layer: Any, x: Tensor, act: Any = None) -> Tensor:
    """A `ConvNormAct` on (B, C, H, W) by its weights, zeros around; `act` spelled by the caller."""
    y = norm(layer.norm, conv(layer.conv, x))
    return y if act is None else act(y)


def conv(layer: Any, x: Tensor) -> Tensor:
    """A convolution that keeps the size by sums over its taps; (B, C, H, W)."""
    weight, groups, dilation = layer.weight, layer.groups, layer.dilation[0]
    out, width, rows, columns = weight.shape
    height, length = x.shape[2:]
    down, along = dilation * (rows // 2), dilation * (columns // 2)
    framed = x.new_zeros(*x.shape[:2], height + 2 * down, length + 2 * along)
    framed[:, :, down : down + height, along : along + length] = x
    y = x.new_zeros(x.shape[0], out, height, length)
    for i in range(rows):
        for j in range(columns):
            top, left = i * dilation, j * dilation
            seen = framed[:, :, top : top + height, left : left + length]
            seen = seen.reshape(x.shape[0], groups, width, height, length)
            taps = weight[:, :, i, j].reshape(groups, -1, width)
            y += torch.einsum("goc,bgchw->bgohw", taps, seen).flatten(1, 2)
    return y if layer.bias is None else y + layer.bias[:, None, None]


def norm(layer: Any, x: Tensor) -> Tensor:
    """A batch norm with its statistics; (B, C, H, W)."""
    mean, var, weight, bias = (
        t[:, None, None] for t in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    return (x - mean) / (var + layer.eps).sqrt() * weight + bias


def layer_norm(layer: Any, x: Tensor) -> Tensor:
    """Over the channels of each pixel; (B, C, H, W)."""
    y = (x - x.mean(1, True)) / (x.var(1, correction=0, keepdim=True) + layer.eps).sqrt()
    return y * layer.weight[:, None, None] + layer.bias[:, None, None]


def image_norm(layer: Any, x: Tensor) -> Tensor:
    """A group norm of one group; (B, C, H, W)."""
    dims = (1, 2, 3)
    y = (x - x.mean(dims, True)) / (x.var(dims, correction=0, keepdim=True) + layer.eps).sqrt()
    return y * layer.weight[:, None, None] + layer.bias[:, None, None]


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2
