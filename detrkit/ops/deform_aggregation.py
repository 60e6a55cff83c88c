"""Sums of values at points that move, with weights of their own: the operator of DCNv3 and DCNv4.

    y(p) = sum_k m_gk(p) · v_g(s · p + o · (p_k + Δp_gk(p)))

InternImage, Wang et al., CVPR 2023, arXiv:2211.05778, eq. 2; DCNv4, Xiong et al., CVPR 2024,
arXiv:2401.06197, whose kernel takes over where the package `DCNv4` is installed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.ops.deform_conv import deform_taps, kernel_points
from detrkit.ops.kernels import kernel_for
from detrkit.ops.precision import precise

#: At most so many images go into the kernel at once, as its authors call it.
_IMAGES = 256


def aggregated(
    value: Tensor,
    offsets: Tensor,
    weights: Tensor,
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
    offset_scale: float = 1.0,
) -> Tensor:
    """Sums of values at moved points; zeros around keep the size at stride 1.

    Args:
        value: (B, H, W, C).
        offsets: (B, H', W', G, k², 2), dx and dy of each point, column by column.
        weights: (B, H', W', G, k²).
        kernel_size: k.
        stride, dilation: of the points' grid.
        offset_scale: factor of grid and offsets.

    Returns:
        (B, H', W', C).
    """
    side = kernel_size
    reach = dilation * (side // 2)
    groups, width = offsets.shape[3], value.shape[-1] // offsets.shape[3]
    if side == 3 and width % 16 == 0:  # what the kernel is made for
        kernel = kernel_for(precise(value), "DCNv4.functions", "DCNv4Function")
        if kernel is not None:
            table = _table(precise(offsets), precise(weights))
            grid = (side, side, stride, stride, reach, reach, dilation, dilation)
            rest = (groups, width, offset_scale, _IMAGES, 0)  # 0: the middle point counts
            return kernel.apply(precise(value).contiguous(), table, *grid, *rest).to(value.dtype)
    # to the operator's order: row by row, dy and dx
    offsets = offsets.unflatten(-2, (side, side)).transpose(-3, -2).flatten(-3, -2).flip(-1)
    weights = weights.unflatten(-1, (side, side)).transpose(-2, -1).flatten(-2)
    if offset_scale != 1:
        rows, columns = (steps - reach for steps in kernel_points(side, value, dilation))
        points = F.pad(rows[:, None], (0, 1)) + F.pad(columns[:, None], (1, 0))
        offsets = offset_scale * offsets + (offset_scale - 1) * points
    taps = deform_taps(
        value.permute(0, 3, 1, 2),
        offsets.flatten(3).permute(0, 3, 1, 2),
        weights.flatten(3).permute(0, 3, 1, 2),
        side,
        stride,
        reach,
        dilation,
    )
    return taps.sum(2).permute(0, 2, 3, 1)


def _table(offsets: Tensor, weights: Tensor) -> Tensor:
    """As the kernel reads them: a group's offsets, then its weights, then the next group's.

    (B, H', W', G, k², 2) and (B, H', W', G, k²) -> (B, H', W', 3·G·k²), padded to a multiple of 8.
    """
    table = torch.cat([offsets.flatten(-2), weights], dim=-1).flatten(-2)
    return F.pad(table, (0, -table.shape[-1] % 8))
