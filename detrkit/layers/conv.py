"""Convolution, batch norm, activation; and the blocks that fuse into one convolution.

A layer with `convert_to_deploy()` replaces its training branches by an equivalent convolution;
`Detector.deploy()` calls it on a copy.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.activations import get_activation
from detrkit.layers.norm import FrozenBatchNorm2d


def fused_weights(
    conv: nn.Conv2d, norm: nn.BatchNorm2d | FrozenBatchNorm2d
) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the convolution that equals `norm(conv(x))` with fixed statistics.

    Args:
        conv: (out, in / groups, k, k), with or without bias.
        norm: batch norm, trainable or frozen.

    Returns:
        kernel of the same shape, bias (out,).
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    start = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    return conv.weight * scale.reshape(-1, 1, 1, 1), norm.bias - start * scale


def fused_convolution(conv: nn.Conv2d, norm: nn.BatchNorm2d | FrozenBatchNorm2d) -> nn.Conv2d:
    """One convolution that equals `norm(conv(x))` with fixed statistics."""
    return _convolution_like(conv, *fused_weights(conv, norm))


def _convolution_like(conv: nn.Conv2d, kernel: Tensor, bias: Tensor) -> nn.Conv2d:
    """`conv` with other weights and a bias."""
    assert not isinstance(conv.padding, str)
    # PyTorch says of its sides that they are any number of integers, and takes one or two
    fused = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        device=kernel.device,
        dtype=kernel.dtype,
    )
    assert fused.bias is not None
    with torch.no_grad():
        fused.weight.copy_(kernel)
        fused.bias.copy_(bias)
    return fused


def convolution_of(kernel: Tensor, bias: Tensor, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution with these weights; odd sides, zeros around keep the size at stride 1.

    Args:
        kernel: (out, in / groups, h, w).
        bias: (out,).
        stride, groups: of the convolution.
    """
    out_channels, width, *sides = kernel.shape  # two sides, which the type of a shape cannot say
    conv = nn.Conv2d(
        width * groups,
        out_channels,
        sides,  # type: ignore[arg-type]
        stride,
        [side // 2 for side in sides],  # type: ignore[arg-type]
        groups=groups,
        device=kernel.device,
        dtype=kernel.dtype,
    )
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight.copy_(kernel)
        conv.bias.copy_(bias)
    return conv


def centred_kernel(kernel: Tensor, size: int) -> Tensor:
    """(out, in, h, w), odd sides -> (out, in, size, size) with zeros around."""
    down, along = (size - kernel.shape[2]) // 2, (size - kernel.shape[3]) // 2
    return F.pad(kernel, [along, along, down, down])


def norm_act(channels: int, act: str | nn.Module | None) -> nn.Sequential:
    """Batch norm and activation, to follow a layer that has neither; empty for None."""
    if act is None:
        return nn.Sequential()
    return nn.Sequential(nn.BatchNorm2d(channels), get_activation(act))


def fold_sequences(model: nn.Module) -> None:
    """Folds batch norms that follow a convolution in a `Sequential`; their place stays, empty."""
    for sequence in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        layers = list(sequence.named_children())
        for (name, conv), (next_name, norm) in pairwise(layers):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
                sequence.register_module(name, fused_convolution(conv, norm))
                sequence.register_module(next_name, nn.Identity())


def same_padding(kernel_size: int | tuple[int, int], dilation: int = 1) -> int | tuple[int, int]:
    """Zeros on each side with which a convolution of odd sides and stride 1 keeps the size."""
    if isinstance(kernel_size, int):
        return dilation * (kernel_size - 1) // 2
    return dilation * (kernel_size[0] - 1) // 2, dilation * (kernel_size[1] - 1) // 2


class ConvNormAct(nn.Module):
    """Convolution, batch norm, activation. (B, in, H, W) -> (B, out, H', W').

    Args:
        in_channels, out_channels: widths.
        kernel_size: one side, or (h, w).
        stride, groups, dilation: of the convolution.
        padding: on each side; None keeps the size at stride 1.
        bias: of the convolution.
        act: activation's name, or None.
    """

    in_a_row = ("conv_bn_fused", "act")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        groups: int = 1,
        padding: int | tuple[int, int] | None = None,
        bias: bool = False,
        act: str | nn.Module | None = None,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        if padding is None:
            padding = same_padding(kernel_size, dilation)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = get_activation(act)

    def forward(self, x: Tensor) -> Tensor:
        if "conv_bn_fused" in self._modules:
            return self.act(self.conv_bn_fused(x))
        return self.act(self.norm(self.conv(x)))

    def convert_to_deploy(self) -> None:
        """Folds the norm into the convolution (the authors' name for it: `conv_bn_fused`)."""
        if "conv_bn_fused" in self._modules:
            return
        self.conv_bn_fused = fused_convolution(self.conv, self.norm)
        del self.conv, self.norm


def matched(in_channels: int, out_channels: int) -> nn.Module:
    """A 1×1 convolution with norm and SiLU where the widths differ, else nothing."""
    if in_channels == out_channels:
        return nn.Identity()
    return ConvNormAct(in_channels, out_channels, 1, act="silu")


class RepVGGBlock(nn.Module):
    """A 3×3 and a 1×1 branch in training, one 3×3 convolution afterwards; no shortcut branch.

    RepVGG, Ding et al., CVPR 2021, arXiv:2101.03697, section 3.3. (B, in, H, W) -> (B, out, H, W).

    Args:
        in_channels, out_channels: widths.
        act: activation after the sum.
    """

    in_a_row = ("conv", "act")

    def __init__(
        self, in_channels: int, out_channels: int, act: str | nn.Module | None = "relu"
    ) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, out_channels, 3)
        self.conv2 = ConvNormAct(in_channels, out_channels, 1)
        self.act = get_activation(act)

    def forward(self, x: Tensor) -> Tensor:
        if "conv" in self._modules:
            return self.act(self.conv(x))
        return self.act(self.conv1(x) + self.conv2(x))

    def convert_to_deploy(self) -> None:
        """Sums both branches into one 3×3 kernel: a 1×1 kernel is a 3×3 one with a zero border."""
        if "conv" in self._modules:
            return
        kernel, bias = fused_weights(self.conv1.conv, self.conv1.norm)
        kernel_1x1, bias_1x1 = fused_weights(self.conv2.conv, self.conv2.norm)
        self.conv = _convolution_like(
            self.conv1.conv, kernel + F.pad(kernel_1x1, [1, 1, 1, 1]), bias + bias_1x1
        )
        del self.conv1, self.conv2
