"""Convolutions whose kernels differ from image to image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def conv2d_per_image(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Convolves every image with its own kernel, as one convolution with a group per image.

    An ONNX file made of it has a fixed batch size.

    Args:
        x: (B, in, H, W).
        weight: (B, out, in / groups, k, k).
        bias: (out,), the same for all images; or (B, out).
        stride, padding, dilation, groups: of the convolution.

    Returns:
        (B, out, H', W').
    """
    batch = x.shape[0]
    if bias is not None:
        bias = bias.expand(batch, -1).flatten()
    out = F.conv2d(
        x.reshape(1, -1, *x.shape[2:]),
        weight.flatten(0, 1).to(x.dtype),
        bias,
        stride,
        padding,
        dilation,
        batch * groups,
    )
    return out.reshape(batch, -1, *out.shape[2:])
