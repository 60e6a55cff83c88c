"""Convolutions that keep channels apart."""

from __future__ import annotations

from torch import nn

from detrkit.layers.conv import ConvNormAct, same_padding


def depthwise(
    channels: int,
    kernel_size: int | tuple[int, int],
    *,
    stride: int = 1,
    dilation: int = 1,
    bias: bool = True,
) -> nn.Conv2d:
    """A convolution of each channel on its own; at stride 1 it keeps the size.

    Args:
        channels: C, in and out.
        kernel_size: one odd side, or (h, w).
        stride, dilation, bias: of the convolution.
    """
    padding = same_padding(kernel_size, dilation)
    return nn.Conv2d(
        channels, channels, kernel_size, stride, padding, dilation, groups=channels, bias=bias
    )


def separable(
    in_channels: int, out_channels: int, stride: int = 1, *, dilation: int = 1
) -> nn.Sequential:
    """Depthwise 3×3, then 1×1, each with norm and SiLU."""
    return nn.Sequential(
        ConvNormAct(
            in_channels, in_channels, 3, stride, in_channels, dilation=dilation, act="silu"
        ),
        ConvNormAct(in_channels, out_channels, 1, act="silu"),
    )
