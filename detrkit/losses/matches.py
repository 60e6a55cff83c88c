"""Which query answers for which box: pairs of indices, made on the host.

Indices run over the whole batch: query q of image i is `i * Q + q`, and boxes are numbered
through the concatenated targets. One pair of arrays then covers all images, and gathering
matched predictions takes one operation on the flattened outputs.

Shape legend: B images, Q queries, T boxes of all images, M pairs, L outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Indices = npt.NDArray[np.int64]


class Pairs(NamedTuple):
    """Matched queries and boxes on the host.

    Attributes:
        queries: (M,) int64 in 0 … B·Q - 1.
        targets: (M,) int64 in 0 … T - 1.
    """

    queries: Indices
    targets: Indices

    @classmethod
    def empty(cls) -> Pairs:
        """No pair."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))

    @classmethod
    def join(cls, parts: Sequence[Pairs]) -> Pairs:
        """All pairs of `parts`, in their order."""
        if not parts:
            return cls.empty()
        return cls(
            np.concatenate([p.queries for p in parts]), np.concatenate([p.targets for p in parts])
        )

    def per_image(self, num_queries: int, sizes: Sequence[int]) -> list[list[tuple[int, int]]]:
        """For each image the sorted (query, box) pairs, numbered within the image.

        Args:
            num_queries: Q.
            sizes: boxes of each image.
        """
        offsets = starts(sizes)
        found: list[list[tuple[int, int]]] = [[] for _ in sizes]
        for query, target in zip(self.queries.tolist(), self.targets.tolist(), strict=True):
            image = query // num_queries
            found[image].append((query % num_queries, target - int(offsets[image])))
        return [sorted(pairs) for pairs in found]


class Matching(NamedTuple):
    """Pairs of L outputs on the device; outputs that share pairs share memory.

    Attributes:
        queries: (L, M) int64.
        targets: (L, M) int64.
    """

    queries: Tensor
    targets: Tensor

    @classmethod
    def empty(cls, device: torch.device) -> Matching:
        """No pair, for one output."""
        none = torch.zeros((1, 0), dtype=torch.int64, device=device)
        return cls(none, none)

    def rows(self) -> Tensor:
        """(L, 1): indexes the outputs, as in `stack[matching.rows(), matching.queries]`."""
        return torch.arange(len(self.queries), device=self.queries.device)[:, None]


def to_device(groups: Sequence[Sequence[Pairs]], device: torch.device) -> list[Matching]:
    """Sends pairs to the device, all in one transfer.

    Args:
        groups: the outputs of a group have equally many pairs.
        device: where the outputs are.
    """
    blocks = [
        np.stack([[p.queries for p in group], [p.targets for p in group]]) for group in groups
    ]
    flat = torch.from_numpy(np.concatenate([block.ravel() for block in blocks]))
    parts = flat.to(device, non_blocking=True).split([block.size for block in blocks])
    return [Matching(*part.view(block.shape)) for part, block in zip(parts, blocks, strict=True)]


def starts(sizes: Sequence[int]) -> Indices:
    """Number of the first box of each image: [3, 0, 2] -> [0, 3, 3]."""
    return np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))[: len(sizes)].astype(np.int64)


def union_of(pairs: Sequence[Pairs]) -> Pairs:
    """The union of the layers' pairs, one box per query (GO-LSD, arXiv:2410.13842, section 4.2).

    A query that the layers give to several boxes keeps the one most layers agree on; where the
    votes are equal, the box that comes first in the annotations. Ordered by query, so that the
    same matches always give the same sums.
    """
    joined = Pairs.join(pairs)
    if not len(joined.queries):
        return Pairs.empty()
    width = int(joined.targets.max()) + 1
    code, votes = np.unique(joined.queries * width + joined.targets, return_counts=True)
    queries, targets = np.divmod(code, width)
    order = np.lexsort((targets, -votes, queries))
    _, first = np.unique(queries[order], return_index=True)
    return Pairs(queries[order][first], targets[order][first])


def denoising_pairs(
    positive_idx: Sequence[Tensor] | None, num_group: int, num_queries: int, sizes: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Which denoising query reconstructs which box: known from how the queries were made.

    Args:
        positive_idx: per image the positive queries, group by group, box by box.
        num_group: number of groups.
        num_queries: denoising queries D.
        sizes: boxes of each image.

    Returns:
        queries (M,) in 0 … B·D - 1, on the device of `positive_idx`, and targets (M,) on the host.
    """
    if positive_idx is None or num_group == 0 or not sum(sizes):
        none = torch.zeros(0, dtype=torch.int64)
        return none, none
    queries = [index + image * num_queries for image, index in enumerate(positive_idx)]
    targets = [
        np.tile(np.arange(first, first + size), num_group)
        for first, size in zip(starts(sizes), sizes, strict=True)
    ]
    return torch.cat(queries), torch.from_numpy(np.concatenate(targets).astype(np.int64))
