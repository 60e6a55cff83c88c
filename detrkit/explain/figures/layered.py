"""Places for the nodes of a directed graph: rows from top to bottom, few crossings, short edges.

The steps are those of Sugiyama, Tagawa and Toda (IEEE Trans. SMC 11(2), 1981): rows by longest
paths; edges over several rows get a stand-in in each row between; orders by means of neighbours,
the fewest crossings kept; then places near the neighbours, as close to them in the least squares
as the order and the widths allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]

_ORDER_SWEEPS = 24
_PLACE_SWEEPS = 60


@dataclass(frozen=True)
class Arranged:
    """Places, y downwards, from (0, 0).

    Attributes:
        centres: of the nodes.
        routes: of the edges: from the lower side of the source over free places to the upper side
            of the target.
        width, height: of it all.
    """

    centres: list[Point]
    routes: list[list[Point]]
    width: float
    height: float


def arrange(
    sizes: Sequence[Point],
    edges: Sequence[tuple[int, int]],
    *,
    gap: Point = (14.0, 16.0),
) -> Arranged:
    """Places nodes.

    Args:
        sizes: (width, height) of the nodes.
        edges: (source, target), from lower to higher numbers; each pair once.
        gap: least distance between nodes beside and above each other.

    Raises:
        ValueError: an edge does not lead to a higher number.
    """
    if any(source >= target for source, target in edges):
        raise ValueError("edges must lead from lower to higher numbers")
    rows = _rows(len(sizes), edges)
    chains, row_of = _with_stand_ins(rows, edges)
    links = [pair for chain in chains for pair in pairwise(chain)]
    order = _ordered(row_of, links)
    widths = [*(w for w, _ in sizes), *([4.0] * (len(row_of) - len(sizes)))]
    x = _places(order, links, widths, gap[0], len(sizes))
    left = min((x[n] - widths[n] / 2 for n in range(len(row_of))), default=0.0)
    x = [value - left for value in x]
    heights = [max((sizes[n][1] for n in row if n < len(sizes)), default=0.0) for row in order]
    tops, top = [], 0.0
    for height in heights:
        tops.append(top)
        top += height + gap[1]
    middle = [tops[row] + heights[row] / 2 for row in row_of]
    routes = []
    for chain in chains:
        source, target = chain[0], chain[-1]
        start = (x[source], middle[source] + sizes[source][1] / 2)
        end = (x[target], middle[target] - sizes[target][1] / 2)
        between: list[Point] = []
        for each in chain[1:-1]:  # straight through its row, past what stands there
            row = row_of[each]
            between += [(x[each], tops[row]), (x[each], tops[row] + heights[row])]
        routes.append([start, *between, end])
    centres = [(x[n], middle[n]) for n in range(len(sizes))]
    width = max((x[n] + widths[n] / 2 for n in range(len(row_of))), default=0.0)
    return Arranged(centres, routes, width, max(top - gap[1], 0.0))


def _rows(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Row of each node: below all its sources; further down where that shortens more edges."""
    sources: list[list[int]] = [[] for _ in range(count)]
    targets: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        sources[target].append(source)
        targets[source].append(target)
    rows = [0] * count
    for node in range(count):
        rows[node] = max((rows[s] + 1 for s in sources[node]), default=0)
    for node in reversed(range(count)):
        if len(targets[node]) > len(sources[node]):
            rows[node] = min(rows[t] for t in targets[node]) - 1
    return rows


def _with_stand_ins(
    rows: Sequence[int], edges: Sequence[tuple[int, int]]
) -> tuple[list[list[int]], list[int]]:
    """Edges as chains of nodes in neighbouring rows, and the row of every node."""
    row_of = list(rows)
    chains = []
    for source, target in edges:
        chain = [source]
        for row in range(rows[source] + 1, rows[target]):
            chain.append(len(row_of))
            row_of.append(row)
        chains.append([*chain, target])
    return chains, row_of


def _ordered(row_of: Sequence[int], links: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Nodes of each row from left to right."""
    above: dict[int, list[int]] = {}
    below: dict[int, list[int]] = {}
    for upper, lower in links:
        above.setdefault(lower, []).append(upper)
        below.setdefault(upper, []).append(lower)
    order: list[list[int]] = [[] for _ in range(max(row_of, default=-1) + 1)]
    for node, row in enumerate(row_of):
        order[row].append(node)
    best, fewest = [list(row) for row in order], _crossings(order, below)
    for sweep in range(_ORDER_SWEEPS):
        downwards = sweep % 2 == 0
        rows = range(1, len(order)) if downwards else range(len(order) - 2, -1, -1)
        neighbours = above if downwards else below
        for row in rows:
            at = {n: i for i, n in enumerate(order[row - 1 if downwards else row + 1])}
            means = {}
            for own, node in enumerate(order[row]):
                near = [at[n] for n in neighbours.get(node, ())]
                means[node] = sum(near) / len(near) if near else float(own)
            order[row].sort(key=means.__getitem__)
        _exchange(order, above, below)
        crossings = _crossings(order, below)
        if crossings < fewest:
            best, fewest = [list(row) for row in order], crossings
        if not fewest:
            break
    return best


def _exchange(
    order: list[list[int]], above: dict[int, list[int]], below: dict[int, list[int]]
) -> None:
    """Lets neighbours change places wherever that takes crossings away."""
    better = True
    while better:
        better = False
        for number, row in enumerate(order):
            near: list[tuple[dict[int, list[int]], dict[int, int]]] = []
            for links, other in ((above, number - 1), (below, number + 1)):
                if 0 <= other < len(order):
                    near.append((links, {n: i for i, n in enumerate(order[other])}))
            for i in range(len(row) - 1):
                a, b = row[i], row[i + 1]
                gained = sum(_crossed(a, b, *each) - _crossed(b, a, *each) for each in near)
                if gained > 0:
                    row[i], row[i + 1] = b, a
                    better = True


def _crossed(left: int, right: int, links: dict[int, list[int]], at: dict[int, int]) -> int:
    """Crossings of the edges of two neighbours to one of the rows beside theirs."""
    return sum(1 for n in links.get(left, ()) for m in links.get(right, ()) if at[n] > at[m])


def _crossings(order: Sequence[Sequence[int]], below: dict[int, list[int]]) -> int:
    count = 0
    for row, next_row in pairwise(order):
        at = {n: i for i, n in enumerate(next_row)}
        ends: list[int] = []
        for node in row:
            mine = sorted(at[n] for n in below.get(node, ()))
            count += sum(1 for e in ends for m in mine if e > m)
            ends += mine
    return count


def _places(
    order: Sequence[Sequence[int]],
    links: Sequence[tuple[int, int]],
    widths: Sequence[float],
    gap: float,
    real: int,
) -> list[float]:
    """x of each node: rows in turns, each as near to its neighbours as it can be."""
    near: dict[int, list[tuple[int, float]]] = {}
    for upper, lower in links:
        weight = 1.0 + 7.0 * (upper >= real) + 7.0 * (lower >= real)  # long edges run straight
        near.setdefault(upper, []).append((lower, weight))
        near.setdefault(lower, []).append((upper, weight))
    x = [0.0] * len(widths)
    for row in order:
        at = 0.0
        for node in row:
            x[node] = at + widths[node] / 2
            at += widths[node] + gap
    for sweep in range(_PLACE_SWEEPS):
        rows = list(order) if sweep % 2 == 0 else list(reversed(order))
        for row in rows:
            wanted, weights = [], []
            for node in row:
                some = near.get(node, [])
                total = sum(weight for _, weight in some)
                mean = sum(x[n] * weight for n, weight in some) / total if total else x[node]
                wanted.append(mean)
                weights.append(max(total, 0.01))
            apart = [(widths[a] + widths[b]) / 2 + gap for a, b in pairwise(row)]
            for node, place in zip(row, _spread(wanted, weights, apart), strict=True):
                x[node] = place
    return x


def _spread(
    wanted: Sequence[float], weights: Sequence[float], apart: Sequence[float]
) -> list[float]:
    """Places nearest to `wanted` in the weighted least squares that keep the order and distances.

    With the distances taken off, the places must not fall: neighbours that would are pooled.
    """
    offsets = [0.0]
    for distance in apart:
        offsets.append(offsets[-1] + distance)
    pools: list[tuple[float, float, int]] = []  # mean, weight, members
    for value, weight, offset in zip(wanted, weights, offsets, strict=False):
        pools.append((value - offset, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, wa, na), (b, wb, nb) = pools[-2:]
            pools[-2:] = [((a * wa + b * wb) / (wa + wb), wa + wb, na + nb)]
    level = [mean for mean, _, members in pools for _ in range(members)]
    return [value + offset for value, offset in zip(level, offsets, strict=False)]
