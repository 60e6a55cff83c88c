"""How objects, images and classes are distributed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from detrkit.analysis.advice.words import pixel_count
from detrkit.analysis.findings import Findings
from detrkit.analysis.numbers import Spread
from detrkit.analysis.setup import size_text
from detrkit.analysis.statistics import POSITION_CELLS, SplitStatistics
from detrkit.report import (
    Cell,
    Column,
    Html,
    details,
    figures,
    heat_map,
    histogram,
    matrix,
    table,
)
from detrkit.report.cells import cell, share

#: Classes in the matrix.
_CHARTED = 30


def objects(findings: Findings) -> Iterable[Html]:
    splits, together, setup = findings.splits, findings.together, findings.setup
    if not together.boxes:
        return
    sides = together.input_side_histogram
    used = _used(sides.counts)
    stride = setup.strides[0]
    limits = {
        sides.edges.index(edge) - used.start: words
        for edge, words in ((float(stride), f"stride {stride}"), (32.0, "32"), (96.0, "96"))
        if edge in sides.edges and used.start < sides.edges.index(edge) < used.stop
    }
    yield figures(
        [
            (
                histogram(
                    [_lower(sides.edges, i) for i in used],
                    {
                        name: split.input_side_histogram.counts[used.start : used.stop]
                        for name, split in splits.items()
                    },
                    title="Sizes of the objects at the input",
                    axis=f"size in pixels at {setup.size_text}",
                    edges=True,
                    marks=limits,
                ),
                f"Size at the input of {setup.size_text}. "
                f"Median {together.input_sides.median:.0f} px.",
            ),
            (
                _histogram_of(
                    splits,
                    "coverage_histogram",
                    "Sizes of the objects in the image",
                    "size of the object / size of the image",
                    _lower,
                ),
                f"Size against that of the image. Median {together.coverage.median:.2f}.",
            ),
            (
                _histogram_of(
                    splits,
                    "aspect_histogram",
                    "Aspect ratios of the objects",
                    "width / height",
                    _ratio,
                ),
                f"Width over height in the files. Median {together.aspects.median:.2f}.",
            ),
            (
                _histogram_of(
                    splits,
                    "objects_histogram",
                    "Objects per image",
                    "boxes in an image",
                    _whole,
                    edges=False,
                ),
                f"Objects per image. 99.9th percentile {together.objects.p999:.0f}, most "
                f"{together.objects.max:.0f}; the model has {setup.num_queries} queries.",
            ),
        ]
    )
    ticks = [(float(2 * k), f"{2**k}") for k in range(0, 12, 2)]
    grid = POSITION_CELLS
    yield figures(
        [
            (
                heat_map(
                    together.input_shapes,
                    title="Width and height of the objects at the input",
                    x_axis="width in pixels",
                    y_axis="height in pixels",
                    x_ticks=ticks,
                    y_ticks=ticks,
                    upwards=True,
                ),
                "Width and height at the input, both logarithmic; stronger is more.",
            ),
            (
                heat_map(
                    together.positions,
                    title="Positions of the objects",
                    x_axis="left to right",
                    y_axis="top to bottom",
                    x_ticks=[(0, "0"), (grid / 2, "½"), (grid, "1")],
                    y_ticks=[(0, "0"), (grid / 2, "½"), (grid, "1")],
                ),
                "Centres of the boxes as fractions of the image, as it is seen; stronger is more.",
            ),
        ]
    )
    yield table(
        [
            Column("input"),
            Column("compute", True, "times that of the present input, about"),
            *(Column(f"under {side} px", True) for side in (8, 16)),
            Column("median, px", True),
        ],
        [
            (
                size_text(at.size) + (" (present)" if at.size == setup.size else ""),
                cell(pixel_count(at.size) / pixel_count(setup.size), "{:.2f}"),
                share(at.under_8, at.boxes),
                share(at.under_16, at.boxes),
                cell(at.median, "{:.0f}"),
            )
            for at in together.at_inputs
        ],
        caption="How small the objects are at other inputs",
        sortable=False,
    )
    yield details(
        "Quantiles",
        table(
            [Column(""), *(Column(q, True) for q in _QUANTILES)],
            [
                _spread("size in the files, px", together.sides),
                _spread("size at the input, px", together.input_sides),
                _spread("size / image", together.coverage),
                _spread("width / height", together.aspects),
                _spread("objects per image", together.objects),
            ],
            caption="All splits",
            sortable=False,
        ),
    )


_QUANTILES = ("min", "p1", "p5", "p25", "median", "p75", "p95", "p99", "p999", "max")


def _spread(name: str, spread: Spread) -> list[object]:
    return [name, *(cell(getattr(spread, q), "{:.3g}") for q in _QUANTILES)]


def _histogram_of(
    splits: Mapping[str, SplitStatistics],
    field: str,
    title: str,
    axis: str,
    label: Callable[[Sequence[float], int], str],
    *,
    edges: bool = True,
) -> Html:
    """A histogram of all splits, cut to the bins that hold something."""
    found = {name: getattr(split, field) for name, split in splits.items()}
    limits = next(iter(found.values())).edges
    used = _used(np.sum([h.counts for h in found.values()], axis=0).tolist())
    return histogram(
        [label(limits, i) for i in used],
        {name: h.counts[used.start : used.stop] for name, h in found.items()},
        title=title,
        axis=axis,
        edges=edges,
    )


def _used(counts: Sequence[int]) -> range:
    """From the first to the last bin that holds something."""
    filled = [i for i, count in enumerate(counts) if count]
    return range(filled[0], filled[-1] + 1) if filled else range(len(counts))


def _lower(edges: Sequence[float], i: int) -> str:
    return f"{edges[i]:g}"


def _whole(edges: Sequence[float], i: int) -> str:
    low, high = edges[i], edges[i + 1]
    if high == float("inf"):
        return f"{low:g}+"
    return f"{low:g}" if high - low == 1 else f"{low:g}–{high - 1:g}"


def _ratio(edges: Sequence[float], i: int) -> str:
    low = edges[i]
    if low == 0:
        return "0"
    return f"{low:.2g}:1" if low >= 1 else f"1:{1 / low:.2g}"


def images(findings: Findings) -> Html:
    together = findings.together
    rows = [
        (
            f"{w}x{h}",
            Cell(f"{w / h:.2f}", w / h),
            images,
            share(images, together.images),
        )
        for (h, w), images in together.image_sizes
    ]
    more = together.distinct_sizes - len(rows)
    return table(
        [
            Column("size, width x height"),
            Column("width / height", True),
            Column("images", True),
            Column("share", True),
        ],
        rows,
        caption="Sizes of the images" + (f"; {more} more sizes" if more else ""),
    )


def cooccurrence(findings: Findings) -> Html:
    together = findings.together
    order = [i for i in np.argsort(-together.cooccurrence.diagonal(), kind="stable")
             if together.classes[i].images][:_CHARTED]  # fmt: skip
    if len(order) < 2:
        return Html("")
    counts = together.cooccurrence[np.ix_(order, order)]
    shares = counts / np.maximum(counts.diagonal(), 1)[:, None]
    return figures(
        [
            (
                matrix(
                    [together.classes[i].name for i in order],
                    shares,
                    title="Classes in the same image",
                    tooltips="of the images with {a}, {v} show {b}",
                ),
                f"The {len(order)} classes in most images." if len(order) == _CHARTED else "",
            )
        ]
    )


def differences(findings: Findings) -> Html:
    rows = [
        (
            f"{d.first} and {d.second}",
            cell(d.distance, "{:.2f}"),
            cell(d.scale_ratio, "{:.2f}"),
            cell(d.pixel_ratio, "{:.2f}"),
            names(d.only_first),
            names(d.only_second),
            names([f"{s.name} ({100 * s.first:.0f} % / {100 * s.second:.0f} %)" for s in d.shifts]),
        )
        for d in findings.differences
    ]
    return table(
        [
            Column("splits"),
            Column("class distance", True, "0: same shares of boxes, 1: no class in common"),
            Column("object size", True, "median at the input, second over first"),
            Column("image size", True, "median side, second over first"),
            Column("classes only in the first"),
            Column("classes only in the second"),
            Column("clearly other shares of images"),
        ],
        rows,
        caption="Splits side by side",
        sortable=False,
    )


def names(names: Sequence[str], limit: int = 12) -> str:
    if not names:
        return "–"
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" * (len(names) > limit))
