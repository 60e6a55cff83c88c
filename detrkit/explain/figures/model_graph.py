"""The graph of a model as a picture: a box per layer, an arrow where tensors flow."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrkit.engine.layerwise.flow import ModelGraph, Node
from detrkit.engine.layerwise.graph_text import facts_of, title_of
from detrkit.explain.figures import style
from detrkit.explain.figures.layered import Arranged, arrange

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLE, _FACTS = 7.5, 6.5  # points
_LINE = 1.35  # of a line of text, in font sizes
_PADDING = (7.0, 4.0)
_MARGIN = 10.0
_HEAD = 16.0  # the name of the model
#: A larger picture would be more than programs show; its dots are fewer then.
_MOST_DOTS = 20_000


def draw_graph(graph: ModelGraph, path: str | Path) -> Path:
    """Writes a picture, as large as the graph needs.

    Args:
        graph: of a model.
        path: .svg, .pdf or .png.

    Raises:
        UsageError: the ending is another one.
        DetrkitError: the file cannot be written.
    """
    with style.drawing(graph.name):
        figure = graph_figure(graph)
        dots = min(style.DPI, int(_MOST_DOTS / max(figure.get_size_inches())))
        return style.save(figure, path, dpi=max(dots, 30))


def graph_figure(graph: ModelGraph) -> Figure:
    """The picture; inside `style.drawing`."""
    from matplotlib.figure import Figure

    lines = [_lines(node) for node in graph.nodes]
    sizes = [_size(texts) for texts in lines]
    placed = arrange(sizes, [(edge.source, edge.target) for edge in graph.edges])
    width = placed.width + 2 * _MARGIN
    height = placed.height + 2 * _MARGIN + _HEAD
    figure = Figure(figsize=(max(width, 150) / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-_MARGIN, max(width, 150) - _MARGIN)
    axes.set_ylim(placed.height + _MARGIN, -_MARGIN - _HEAD)
    axes.text(
        0, -_HEAD, f"{graph.name}, depth {graph.depth}", va="center", fontsize=8, color=style.GRAY,
        parse_math=False,
    )  # fmt: skip
    _draw_edges(axes, placed)
    colors = _colors(graph)
    for node, texts, size, centre in zip(graph.nodes, lines, sizes, placed.centres, strict=True):
        _draw_node(axes, node, texts, size, centre, colors.get(node.part, style.GRAY))
    return figure


def _lines(node: Node) -> list[tuple[str, float]]:
    """Texts of a box and their font sizes."""
    texts = [(title_of(node), _TITLE)]
    if node.role != "operation" and (facts := facts_of(node, times="×")):
        texts.append((facts, _FACTS))
    return texts


def _size(texts: list[tuple[str, float]]) -> tuple[float, float]:
    """Width and height of a box, in points."""
    from matplotlib.textpath import TextPath

    widths = [TextPath((0, 0), text, size=size).get_extents().width for text, size in texts if text]
    height = sum(size * _LINE for _, size in texts)
    return max(widths, default=0.0) + 2 * _PADDING[0], height + 2 * _PADDING[1]


def _colors(graph: ModelGraph) -> dict[str, str]:
    parts = dict.fromkeys(node.part for node in graph.nodes if node.role == "layer")
    return {part: style.COLORS[i % len(style.COLORS)] for i, part in enumerate(parts)}


def _draw_node(
    axes: Any,
    node: Node,
    texts: list[tuple[str, float]],
    size: tuple[float, float],
    centre: tuple[float, float],
    color: str,
) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import FancyBboxPatch

    (width, height), (x, y) = size, centre
    layer = node.role == "layer"
    edge = color if layer or node.role == "operation" else "black"
    light = tuple(1 - 0.12 * (1 - c) for c in to_rgb(edge)) if layer else (1.0, 1.0, 1.0)
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height, facecolor=light, edgecolor=edge,
            boxstyle=f"round,pad=0,rounding_size={2.5 if layer else height / 2}", linewidth=0.8,
        )
    )  # fmt: skip
    top = y - sum(points * _LINE for _, points in texts) / 2
    for text, points in texts:
        axes.text(
            x, top + points * _LINE / 2, text, ha="center", va="center_baseline", fontsize=points,
            color="black" if points == _TITLE else style.GRAY, parse_math=False,
        )  # fmt: skip
        top += points * _LINE


def _draw_edges(axes: Any, placed: Arranged) -> None:
    """Curves that leave and arrive upright, with a head at the target."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    for route in placed.routes:
        points, codes = [route[0]], [Curve.MOVETO]
        for (x1, y1), (x2, y2) in pairwise(route):
            middle = (y1 + y2) / 2
            points += [(x1, middle), (x2, middle), (x2, y2)]
            codes += [Curve.CURVE4] * 3
        axes.add_patch(
            FancyArrowPatch(
                path=Curve(points, codes), arrowstyle="-|>,head_length=3,head_width=1.6",
                color=style.GRAY, linewidth=0.7, shrinkA=0, shrinkB=0, mutation_scale=1,
            )
        )  # fmt: skip
