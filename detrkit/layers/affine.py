"""One scale and one bias for a whole tensor; and what is left of them after folding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class LearnableAffine(nn.Module):
    """scale · x + bias, behind an activation; PP-LCNetV3's learnable affine block.

    Args:
        scale, bias: start values.
    """

    def __init__(self, scale: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([scale]))
        self.bias = nn.Parameter(torch.tensor([bias]))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same, in the precision of `x`."""
        if torch.compiler.is_compiling():  # a traced graph keeps to plain operations
            return torch.addcmul(self.bias, x, self.scale).to(x.dtype)
        low = x.dtype != self.scale.dtype
        if x.device.type != "cpu" and not low:
            return torch.addcmul(self.bias, x, self.scale)
        if not torch.is_grad_enabled():
            return _affine(x, self.scale, self.bias)
        return _Affine.apply(x, self.scale, self.bias)


def _affine(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """scale · x + bias in the precision of `x`.

    `addcmul` does not vectorise these shapes on CPUs and is 4 × slower; and under autocast its
    output would be float32, for the next layer to make it bf16 again.
    """
    # without dimensions neither factor widens the result
    return (x * scale.reshape(())).add_(bias.reshape(()))


class _Affine(torch.autograd.Function):
    """The affine map with a gradient that reads each tensor once.

    Several maps are concatenated in HGNetv2, so gradients arrive as slices of a wider tensor,
    where elementwise work is slow on CPUs; and the gradient of `scale` is a dot product, which
    autograd writes as a product and a sum. Three to six times faster backward.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return _affine(x, scale, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, scale = ctx.saved_tensors
        layout = torch.contiguous_format
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            layout = torch.channels_last
        x = x.contiguous(memory_format=layout)
        grad = grad.contiguous(memory_format=layout)
        for_x, for_scale, for_bias = ctx.needs_input_grad
        return (
            grad * scale.reshape(()) if for_x else None,
            _dot(grad, x).to(scale.dtype)[None] if for_scale else None,
            grad.sum().to(scale.dtype)[None] if for_bias else None,
        )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the products; both dense and laid out alike."""
    if a.dtype != torch.float32:
        return (a * b).sum()  # added up in float32, unlike the dot product
    size, step = (a.numel(),), (1,)  # both as they lie in memory
    return torch.dot(a.as_strided(size, step), b.as_strided(size, step))


class Bound(nn.Module):
    """max(x, bound), or min(x, bound). Any shape.

    Args:
        bound: the number.
        upper: whether it bounds from above.
    """

    def __init__(self, bound: float, upper: bool = False) -> None:
        super().__init__()
        self.bound = bound
        self.upper = upper

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(max=self.bound) if self.upper else x.clamp(min=self.bound)

    def extra_repr(self) -> str:
        return f"{'max' if self.upper else 'min'}={self.bound:g}"


def fold_rectified(conv: nn.Conv2d, affine: LearnableAffine) -> Bound:
    """Puts an affine block behind a rectified convolution into the convolution.

        s · max(u, 0) + b  =  max(s · u + b, b)   for s >= 0, else  min(s · u + b, b)

    Args:
        conv: with a bias; becomes s · W, s · bias + b.
        affine: s and b.

    Returns:
        The convolution's new activation, which runtimes compute on the way, where two operations
        over the whole map stood.
    """
    assert conv.bias is not None
    scale, bias = affine.scale.item(), affine.bias.item()
    with torch.no_grad():
        conv.weight.mul_(scale)
        conv.bias.mul_(scale).add_(bias)
    return Bound(bias, upper=scale < 0)
