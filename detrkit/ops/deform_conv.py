"""Samples of feature maps at learned places, and the deformable convolution made of them.

    y(p) = sum_k w_k · m_k(p) · x(p + p_k + Δp_k(p))      Zhu et al., CVPR 2019, arXiv:1811.11168

On CUDA devices torchvision's kernel takes the samples, with less memory. Elsewhere, and in
exported files, `grid_sample` does, which ONNX knows and which is faster on CPUs (1.7 times
forward, 4 times with the gradient: 128 channels, 40x40, one core).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

from detrkit.ops.precision import precise


def sample(x: Tensor, rows: Tensor, columns: Tensor, padding_mode: str = "zeros") -> Tensor:
    """Values of maps between pixels, bilinear, in at least float32.

    Args:
        x: (N, C, H, W).
        rows, columns: (N, …) in pixels; 0 is the centre of the first.
        padding_mode: outside are "zeros", or the "border" goes on.

    Returns:
        (N, C, …) in the precision of `x`.
    """
    height, width = x.shape[-2:]
    wide = precise(x)
    rows, columns = rows.to(wide.dtype), columns.to(wide.dtype)
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    values = F.grid_sample(
        wide, grid.flatten(1, -2)[:, None], padding_mode=padding_mode, align_corners=False
    )
    return values.to(x.dtype).squeeze(2).unflatten(2, rows.shape[1:])


def kernel_points(kernel_size: int, like: Tensor, dilation: int = 1) -> tuple[Tensor, Tensor]:
    """Rows and columns, (k²,) each, of a kernel's points relative to the first; row by row."""
    steps = dilation * torch.arange(kernel_size, device=like.device)
    return steps.repeat_interleave(kernel_size), steps.repeat(kernel_size)


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Modulated deformable convolution; square kernels.

    Args:
        x: (B, in, H, W).
        offset: (B, G·k²·2, H', W') in pixels: for each of the G groups and each point of the
            kernel, row by row, dy and dx.
        mask: (B, G·k², H', W'), a factor for each point.
        weight: (out, in / groups, k, k).
        bias: (out,).
        stride, padding, dilation, groups: of the convolution.

    Returns:
        (B, out, H', W').
    """
    if x.device.type != "cuda" or torch.onnx.is_in_onnx_export():
        taps = deform_taps(x, offset, mask, weight.shape[-1], stride, padding, dilation)
        return _weighted(taps, weight, bias, groups)
    with torch.autocast(x.device.type, enabled=False):
        inputs = (t.to(weight.dtype) for t in (x, offset))
        return torchvision_deform_conv2d(
            *inputs,
            weight,
            bias,
            stride,
            padding,
            dilation,
            mask.to(weight.dtype),
        )


def deform_taps(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    """What a deformable kernel sees: (B, in, k², H', W'); arguments as for `deform_conv2d`."""
    height, width = offset.shape[-2:]
    points = kernel_size**2
    dy, dx = offset.unflatten(1, (-1, points, 2)).flatten(0, 1).unbind(2)  # (B·G, k², H', W')
    groups = dy.shape[0] // x.shape[0]
    rows, columns = kernel_points(kernel_size, x, dilation)
    top = stride * torch.arange(height, device=x.device)[:, None] - padding
    left = stride * torch.arange(width, device=x.device) - padding
    maps = x.unflatten(1, (groups, -1)).flatten(0, 1)  # (B·G, in / G, H, W)
    taps = sample(maps, dy + top + rows[:, None, None], dx + left + columns[:, None, None])
    taps = taps * mask.unflatten(1, (groups, -1)).flatten(0, 1)[:, None]
    return taps.unflatten(0, (-1, groups)).flatten(1, 2)


def _weighted(taps: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """(B, in, k², H', W') by (out, in / groups, k, k) -> (B, out, H', W')."""
    columns = taps.unflatten(1, (groups, -1)).flatten(2, 3).flatten(3)  # (B, groups, in·k², H'W')
    out = weight.flatten(1).unflatten(0, (groups, -1)) @ columns
    out = out.flatten(1, 2).unflatten(2, taps.shape[-2:])
    return out if bias is None else out + bias[:, None, None]
