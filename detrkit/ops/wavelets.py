"""Orthogonal wavelets: one level of analysis into four bands of half the size, and back.

Daubechies, Orthonormal bases of compactly supported wavelets, CPAM 41 (1988). A bank holds the
four products of the low-pass and the high-pass filter; its transposed convolution inverts it,
exactly for Haar, and up to a few pixels at the border, where zeros are assumed, for others.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def wavelet_bank(name: str = "haar") -> Tensor:
    """The four filters LL, LH, HL, HH of a wavelet, (4, 1, L, L) float32.

    Args:
        name: "haar" or "dbN", N up to 10 vanishing moments and L = 2N; db1 is Haar. LH is
            high-pass down the columns, HL along the rows.

    Raises:
        ValueError: there is no such wavelet.
    """
    moments = name.removeprefix("db") if name != "haar" else "1"
    if not moments.isdecimal() or not 1 <= int(moments) <= 10:
        raise ValueError(f"wavelet must be haar or db1 to db10, got {name!r}")
    low = _daubechies(int(moments))
    high = low[::-1] * (-1.0) ** np.arange(len(low))
    filters = [np.outer(rows, columns) for columns in (low, high) for rows in (low, high)]
    return torch.from_numpy(np.stack(filters)).float()[:, None]


def even(x: Tensor) -> Tensor:
    """A map whose odd sides have a row of zeros below, or a column to the right."""
    return F.pad(x, (0, int(x.shape[-1]) % 2, 0, int(x.shape[-2]) % 2))


def analyse(x: Tensor, bank: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 4, H/2, W/2), rounded down; bands as in the bank.

    Args:
        x: the maps.
        bank: (4, 1, L, L), or (4·C, 1, L, L) with filters for each channel.
    """
    channels, length = x.shape[1], bank.shape[-1]
    kernel = bank if bank.shape[0] == 4 * channels else bank.repeat(channels, 1, 1, 1)
    bands = F.conv2d(x, kernel, stride=2, padding=length // 2 - 1, groups=channels)
    return bands.unflatten(1, (channels, 4))


def synthesise(bands: Tensor, bank: Tensor) -> Tensor:
    """Inverse of `analyse`: (B, C, 4, H, W) -> (B, C, 2H, 2W)."""
    channels, length = bands.shape[1], bank.shape[-1]
    kernel = bank if bank.shape[0] == 4 * channels else bank.repeat(channels, 1, 1, 1)
    return F.conv_transpose2d(
        bands.flatten(1, 2), kernel, stride=2, padding=length // 2 - 1, groups=channels
    )


def _daubechies(moments: int) -> np.ndarray:
    """Low-pass filter of minimal phase with 2·moments taps, of norm 1.

    |H(ω)|² = cos(ω/2)^2N · sum_k binom(N-1+k, k) sin(ω/2)^2k, of which the roots within the unit
    circle are taken.
    """
    tail = [math.comb(moments - 1 + k, k) for k in reversed(range(moments))]
    roots = []
    for y in np.roots(tail):
        half = 1 - 2 * y
        root = half + np.sqrt(half * half - 1 + 0j)
        roots.append(root if abs(root) < 1 else 1 / root)
    taps = np.real(np.poly([-1.0] * moments + roots))
    return taps * (math.sqrt(2) / taps.sum())
