"""oneDNN's convolution and product with the activation behind them, for inference on CPUs.

PyTorch sends products and 1×1 convolutions to its BLAS, MKL, which takes twice oneDNN's time on
processors that are not Intel's; and it writes a convolution's output before the activation reads
it again. The operators here are those that its own compiler puts into compiled graphs. They have
no gradient and no meaning in an exported graph: `usable` says when they apply.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

#: Layers that can be done on the way, by oneDNN's names.
_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.SiLU: "swish"}


def activation_name(layer: nn.Module) -> str | None:
    """oneDNN's name of an activation; None: it has to be a layer of its own."""
    return _ACTIVATIONS.get(type(layer))


@cache
def available() -> bool:
    """Whether this PyTorch has the operators, and they answer what the plain ones answer."""
    if not torch.backends.mkldnn.is_available():
        return False
    image, kernel, bias = torch.ones(1, 2, 3, 3), torch.ones(4, 2, 1, 1), -torch.ones(4)
    try:
        maps = _convolution(image, kernel, bias, (0, 0), (1, 1), (1, 1), 1, "relu")
        rows = _product(image[:, 0], kernel.new_ones(4, 3), bias, "swish")
        packed_kernel(nn.Conv2d(2, 4, 1).requires_grad_(False), image.shape)
    except (AttributeError, RuntimeError):  # neither is promised to stay
        return False
    expected = torch.nn.functional.silu(torch.tensor(2.0))
    return bool((maps == 1).all()) and torch.allclose(rows, expected.expand(1, 3, 4))


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
        and x.dtype == weight.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and bool(torch.backends.mkldnn.enabled)
        and not _left_out
        and x.numel() > 0
    )


def packed_kernel(conv: nn.Conv2d, shape: torch.Size) -> Tensor:
    """The kernel as oneDNN keeps it for images of a shape; otherwise it is turned in every call."""
    kernel: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
        conv.weight, conv.padding, conv.stride, conv.dilation, conv.groups, list(shape)
    )
    return kernel


def convolution(
    x: Tensor, conv: nn.Conv2d, activation: str = "none", kernel: Tensor | None = None
) -> Tensor:
    """(B, in, H, W) -> (B, out, H', W').

    Args:
        x: of which `usable` says so.
        conv: padded with zeros.
        activation: a name of `activation_name`, or "none".
        kernel: of `packed_kernel`; default that of `conv`.
    """
    weight = conv.weight if kernel is None else kernel
    padding, stride, dilation = conv.padding, conv.stride, conv.dilation
    return _convolution(x, weight, conv.bias, padding, stride, dilation, conv.groups, activation)


def product(x: Tensor, linear: nn.Linear, activation: str = "none") -> Tensor:
    """(…, in) -> (…, out); arguments as of `convolution`."""
    return _product(x, linear.weight, linear.bias, activation)


def project_maps(maps: Tensor, linear: nn.Linear) -> Tensor:
    """(B, in, h, w) with the channels last -> (B, out, h, w) with the channels first.

    The matrix stands left and the map is the other factor, so that nothing has to be turned.
    """
    rows = maps.flatten(2).transpose(1, 2)  # (B, h·w, in), dense
    found = [_product(linear.weight, image, None, "none") for image in rows.unbind(0)]
    out = found[0][None] if len(found) == 1 else torch.stack(found)
    if linear.bias is not None:
        out.add_(linear.bias[:, None])
    return out.view(len(maps), -1, *maps.shape[2:])


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: object,
    stride: object,
    dilation: object,
    groups: int,
    activation: str,
) -> Tensor:
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, dilation, groups, activation, [], None
    )
    return out


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], None)
    return out
