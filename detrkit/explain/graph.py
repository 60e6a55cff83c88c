"""The layers of a model and the tensors between them, drawn or written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from detrkit.engine.inspect import Subject
from detrkit.engine.layerwise.flow import ModelGraph
from detrkit.engine.layerwise.graph_text import dot, mermaid
from detrkit.engine.predictor import Predictor
from detrkit.engine.runtime import Runtime
from detrkit.errors import UsageError
from detrkit.explain.layers import network, torch_runtime
from detrkit.files import write_bytes
from detrkit.json_output import write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Endings of files that `DrawnGraph.save` draws, and of those that it writes as text.
PICTURES = (".svg", ".pdf", ".png")
TEXTS = (".mmd", ".mermaid", ".dot", ".gv", ".json")


@dataclass(frozen=True)
class DrawnGraph:
    """A model as boxes and arrows.

    Attributes:
        graph: layers and tensors.
    """

    graph: ModelGraph

    def figure(self) -> Figure:
        """A box per layer, an arrow where tensors flow; as large as it needs to be."""
        from detrkit.explain.figures import style
        from detrkit.explain.figures.model_graph import graph_figure

        with style.drawing(self.graph.name):
            return graph_figure(self.graph)

    def save(self, path: str | Path) -> Path:
        """Writes it: .svg, .pdf, .png; .mmd (Mermaid), .dot (Graphviz) or .json.

        Raises:
            UsageError: another ending.
            DetrkitError: the file cannot be written.
        """
        file = Path(path)
        check_ending(file)
        kind = file.suffix.lower()
        if kind in PICTURES:
            from detrkit.explain.figures.model_graph import draw_graph

            return draw_graph(self.graph, file)
        if kind == ".json":
            write_json(file, "graph", self.to_dict())
        else:
            text = dot(self.graph) if kind in (".dot", ".gv") else mermaid(self.graph)
            write_bytes(file, text.encode("utf-8"))
        return file

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return self.graph.to_dict()


def check_ending(file: Path) -> None:
    """Raises a UsageError where `DrawnGraph.save` knows no such format."""
    if file.suffix.lower() not in (*PICTURES, *TEXTS):
        raise UsageError(
            f"{file}: no format ends in `{file.suffix}`",
            hint=f"there are: {', '.join((*PICTURES, *TEXTS))}",
        )


def graph(
    model: Predictor | Runtime | nn.Module,
    *,
    depth: int = 2,
    size: tuple[int, int] | None = None,
) -> DrawnGraph:
    """The graph of a model as it runs.

    Args:
        model: a checkpoint's detector, by `detrkit.load`, or any model of images, by
            `detrkit.build_model`.
        depth: of calls that are told apart; 1: what the model itself calls.
        size: (h, w) of the image; default the detector's, and 640 x 640 of a bare model.

    Raises:
        UsageError: an exported file, whose layers are closed.
    """
    if isinstance(model, nn.Module):
        name = type(model).__name__
        return DrawnGraph(Subject.of(model, size or (640, 640), name).graph(depth))
    opened = network(model)
    size = size or torch_runtime(model).image_spec.size
    return DrawnGraph(Subject.of(opened, size, type(opened).__name__).graph(depth))
