"""oneDNN's convolution and product with the activation behind them, for inference on CPUs.

PyTorch sends products and 1×1 convolutions to its BLAS, MKL, which takes twice oneDNN's time on
processors that are not Intel's; and it writes a convolution's output before the activation reads
it again. The operators here are those that its own compiler puts into compiled graphs. They have
no gradient and no meaning in an exported graph: `usable` says when they apply.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

#: oneDNN's name of an activation, and its numbers.
Activation = tuple[str, tuple[float, ...]]
NO_ACTIVATION: Activation = ("none", ())


def within(low: float, high: float) -> Activation:
    """Values cut off below and above."""
    return "hardtanh", (low, high)


@cache
def available() -> bool:
    """Whether this PyTorch has the operators, and they answer what the plain ones answer."""
    if not torch.backends.mkldnn.is_available():
        return False
    image, kernel, bias = torch.ones(1, 2, 3, 3), torch.ones(4, 2, 1, 1), -torch.ones(4)
    try:
        maps = _convolution(image, kernel, bias, (0, 0), (1, 1), (1, 1), 1, ("swish", ()))
        cut = _convolution(image, kernel, bias, (0, 0), (1, 1), (1, 1), 1, within(-math.inf, 0.5))
        rows = _product(image[:, 0], kernel.new_ones(4, 3), bias)
        packed_kernel(nn.Conv2d(2, 4, 1).requires_grad_(False), image.shape)
    except (AttributeError, RuntimeError):  # neither is promised to stay
        return False
    expected = torch.nn.functional.silu(torch.tensor(1.0))
    return (
        torch.allclose(maps, expected.expand_as(maps))
        and bool((cut == 0.5).all())
        and bool((rows == 2).all())
    )


#: Whether the plain operators run instead.
_left_out = False


@contextmanager
def left_out() -> Iterator[None]:
    """Inside, the plain operators run: those that count operations know no others."""
    global _left_out
    before, _left_out = _left_out, True
    try:
        yield
    finally:
        _left_out = before


def usable(x: Tensor, weight: Tensor) -> bool:
    """Whether the operators may be used for this input, here and now."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and weight.dtype == torch.float32
        and computes_in(x) is not None
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and bool(torch.backends.mkldnn.enabled)
        and not _left_out
        and x.numel() > 0
    )


def computes_in(x: Tensor) -> torch.dtype | None:
    """The type that autocast has layers compute in, else that of `x`; None: one not known here."""
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32 if x.dtype == torch.float32 else None
    dtype = torch.get_autocast_dtype("cpu")
    return dtype if dtype == torch.bfloat16 else None


def packed_kernel(conv: nn.Conv2d, shape: torch.Size, dtype: torch.dtype = torch.float32) -> Tensor:
    """The kernel as oneDNN keeps it for images of a shape; otherwise it is turned in every call."""
    kernel: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
        conv.weight.to(dtype), conv.padding, conv.stride, conv.dilation, conv.groups, list(shape)
    )
    return kernel


def convolution(
    x: Tensor, conv: nn.Conv2d, kernel: Tensor, activation: Activation = NO_ACTIVATION
) -> Tensor:
    """(B, in, H, W) -> (B, out, H', W') in the type of the kernel.

    Args:
        x: of which `usable` says so.
        conv: padded with zeros.
        kernel: of `packed_kernel`.
        activation: behind it.
    """
    padding, stride, dilation = conv.padding, conv.stride, conv.dilation
    return _convolution(
        x.to(kernel.dtype), kernel, conv.bias, padding, stride, dilation, conv.groups, activation
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(…, in) -> (…, out) in the type of the weight."""
    return _product(x.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype))


def project_maps(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, in, h, w) with the channels last -> (B, out, h, w) with the channels first.

    The matrix stands left and the map is the other factor, so that nothing has to be turned.
    """
    rows = maps.to(weight.dtype).flatten(2).transpose(1, 2)  # (B, h·w, in), dense
    found = [_product(weight, image, None) for image in rows.unbind(0)]
    out = found[0][None] if len(found) == 1 else torch.stack(found)
    if bias is not None:
        out.add_(bias[:, None])
    return out.view(len(maps), -1, *maps.shape[2:])


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: object,
    stride: object,
    dilation: object,
    groups: int,
    activation: Activation,
) -> Tensor:
    name, numbers = activation
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, dilation, groups, name, list(numbers), None
    )
    return out


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], None)
    return out
