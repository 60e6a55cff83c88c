"""The picture of a model's graph."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from detrkit import explain
from detrkit.engine.layerwise.flow import Edge, ModelGraph, Node
from detrkit.errors import DetrkitError, UsageError
from detrkit.explain.figures import model_graph
from detrkit.explain.figures.model_graph import draw_graph
from detrkit.explain.layers import network
from tests.explain.detectors import detector


def chain(layers: int) -> ModelGraph:
    """input -> layers -> output, with an edge that goes past all of them."""
    shape = ((1, 3, 8, 8),)
    nodes = [
        Node(0, "input", "", "input", shape),
        *(Node(i, f"body.{i}", "Conv2d", "layer", shape, 84) for i in range(1, layers + 1)),
        Node(layers + 1, "", "add, mul", "operation", shape),
        Node(layers + 2, "output", "", "output", shape),
    ]
    edges = [Edge(i, i + 1, shape) for i in range(layers + 2)]
    return ModelGraph("名前 & <model> $x$", 2, tuple(nodes), (*edges, Edge(0, layers + 1, shape)))


def test_all_that_is_known_is_written(tmp_path: Path) -> None:
    text = draw_graph(chain(3), tmp_path / "a.svg").read_text(encoding="utf-8")
    for expected in ("body.1", "body.3", "Conv2d, 3×8×8, 84 params", "add, mul", "input", "output"):
        assert text.count(f">{expected}</text>") == (3 if "Conv2d" in expected else 1), expected
    assert "名前 &amp; &lt;model&gt; $x$, depth 2" in text


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_equal_graphs_are_equal_files(tmp_path: Path, kind: str) -> None:
    first, second = (draw_graph(chain(2), tmp_path / f"{i}.{kind}") for i in range(2))
    assert first.read_bytes() == second.read_bytes()


def test_a_long_graph_has_fewer_dots_per_inch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_graph, "_MOST_DOTS", 1000)
    with Image.open(draw_graph(chain(20), tmp_path / "long.png")) as picture:
        assert 900 < picture.height <= 1000


def test_a_detector_is_drawn_from_python(tmp_path: Path) -> None:
    drawn = explain.graph(detector("dfine"), depth=2)
    names = {node["name"] for node in drawn.to_dict()["nodes"]}
    assert {"backbone.stem", "decoder.decoder"} <= names
    assert ">backbone.stem</text>" in drawn.save(tmp_path / "a.svg").read_text(encoding="utf-8")
    assert drawn.save(tmp_path / "a.mmd").read_text(encoding="utf-8").count("backbone.stem")
    assert json.loads(drawn.save(tmp_path / "a.json").read_text(encoding="utf-8"))
    assert drawn.figure().get_size_inches()[1] > 3
    bare = explain.graph(network(detector("dfine")), size=(64, 96))
    assert bare.to_dict() == drawn.to_dict()
    with pytest.raises(UsageError, match=r"no format ends in `\.gif`"):
        drawn.save(tmp_path / "a.gif")


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="png, svg, pdf"):
        draw_graph(chain(1), tmp_path / "a.gif")
    with pytest.raises(DetrkitError, match="cannot write"):
        draw_graph(chain(1), tmp_path / "absent" / "a.png")
