"""Perceptual hashes: 64 bits that stay nearly the same when a picture is scaled or compressed.

A picture becomes 32 x 32 grey values; of their cosine transform the 8 x 8 lowest frequencies
without the mean tell by sign against the median which way brightness runs (the scheme is known
as pHash: Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions").
Pairs within a Hamming distance are found by banding: of d + 1 bands of bits two hashes that
differ in at most d bits share at least one.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from detrkit.analysis.pairs import Rows, pairs_up_to

Hashes = npt.NDArray[np.uint64]

#: Side of the grey picture that is hashed.
SIDE = 32
_KEPT = 8  # lowest frequencies in each direction


def perceptual_hash(gray: npt.NDArray[np.uint8]) -> Hashes:
    """(N, 32, 32) grey pictures -> (N,) 64-bit hashes."""
    from scipy.fft import dctn

    frequencies = dctn(gray.astype(np.float32), axes=(1, 2), norm="ortho")
    # 8 x 8 without the mean, and the next frequency down in its place
    block = frequencies[:, :_KEPT, :_KEPT].reshape(len(gray), -1).copy()
    block[:, 0] = frequencies[:, _KEPT, 0]
    bits = block > np.median(block, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).reshape(-1, 8).view(">u8").reshape(-1).astype(np.uint64)


def hamming(a: Hashes, b: Hashes) -> npt.NDArray[np.int64]:
    """Bits in which hashes differ, element by element."""
    x = a ^ b
    # sums of neighbouring bits, pairs, nibbles; the product adds up the bytes
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((x * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.int64)


def near_pairs(hashes: Hashes, distance: int) -> tuple[Rows, Rows]:
    """All pairs (i < j) of hashes that differ in at most `distance` bits, each once.

    Equal hashes should be put together beforehand: n of them are n^2 / 2 pairs.
    """
    bands = distance + 1
    cuts = [64 * band // bands for band in range(bands + 1)]
    keys = [
        (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        for low, high in pairwise(cuts)
    ]
    first: list[Rows] = []
    second: list[Rows] = []
    for band, key in enumerate(keys):
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        for i, j in pairs_up_to(np.searchsorted(ordered, ordered, side="right")):
            a, b = order[i], order[j]
            near = hamming(hashes[a], hashes[b]) <= distance
            for earlier in keys[:band]:  # found there already
                near &= earlier[a] != earlier[b]
            if near.any():
                a, b = a[near], b[near]
                first.append(np.minimum(a, b))
                second.append(np.maximum(a, b))
    if not first:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(first), np.concatenate(second)
