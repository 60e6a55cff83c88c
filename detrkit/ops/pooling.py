"""Averages and maxima over bins of a map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def adaptive_average(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean of each of `size` bins, as `F.adaptive_avg_pool2d`; (B, C, H, W) -> (B, C, h, w).

    ONNX knows it for sizes that divide the map's only: there it is two matrix products.
    """
    if not torch.onnx.is_in_onnx_export():
        return F.adaptive_avg_pool2d(x, size)
    rows, columns = (_bins(int(n), bins, x) for n, bins in zip(x.shape[-2:], size, strict=True))
    return rows @ x @ columns.T


def _bins(length: int, bins: int, like: Tensor) -> Tensor:
    """(bins, length): weights of the means from floor(i · n / b) to ceil((i + 1) · n / b)."""
    place = torch.arange(length, device=like.device)
    index = torch.arange(bins, device=like.device)[:, None]
    start, stop = index * length // bins, ((index + 1) * length + bins - 1) // bins
    inside = (place >= start) & (place < stop)
    return inside.to(like.dtype) / inside.sum(1, keepdim=True)


def adaptive_max(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Greatest value of each of `size` bins, as `F.adaptive_max_pool2d`.

    ONNX knows it for sizes that divide the map's only: there it takes the bins one by one, rows
    first. (B, C, H, W) -> (B, C, h, w).
    """
    if not torch.onnx.is_in_onnx_export():
        return F.adaptive_max_pool2d(x, size)
    for dim in (2, 3):
        length, bins = int(x.shape[dim]), int(size[dim - 2])
        edges = [(i * length // bins, -(-(i + 1) * length // bins)) for i in range(bins)]
        parts = [x.narrow(dim, start, stop - start) for start, stop in edges]
        x = torch.cat([part.amax(dim, keepdim=True) for part in parts], dim=dim)
    return x
