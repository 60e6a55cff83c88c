"""The graph of a model: edges are the tensors that flowed, all of them and no others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.engine.layerwise.flow import ModelGraph, model_graph
from detrkit.engine.layerwise.graph_text import dot, mermaid, shape_text

IMAGE = torch.zeros(1, 3, 8, 8)


def conv(a: int = 3, b: int = 3) -> nn.Conv2d:
    return nn.Conv2d(a, b, 1)


def connections(graph: ModelGraph) -> set[tuple[str, str]]:
    """Edges by the names of nodes; meetings by their operations."""
    names = [
        node.kind if node.role == "operation" else node.name + (f"#{node.call}" * (node.call > 1))
        for node in graph.nodes
    ]
    return {(names[edge.source], names[edge.target]) for edge in graph.edges}


class Built(nn.Module):
    """A model of named layers and a function that uses them."""

    def __init__(self, forward: Callable[[Any, Tensor], object], **layers: nn.Module) -> None:
        super().__init__()
        self.use = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> object:
        return self.use(self, x)


def edges(
    forward: Callable[[Any, Tensor], object], depth: int = 1, **layers: nn.Module
) -> set[tuple[str, str]]:
    return connections(model_graph(Built(forward, **layers).eval(), (IMAGE,), depth=depth))


def test_a_chain_with_functions_between() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.b(F.relu(m.a(x)).flatten(2).view(1, 3, 8, 8)) * 2

    assert edges(forward, a=conv(), b=conv()) == {("input", "a"), ("a", "b"), ("b", "output")}


def test_a_skip_connection_meets_at_the_sum() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.c(y + m.b(y))

    assert edges(forward, a=conv(), b=conv(), c=conv()) == {
        ("input", "a"), ("a", "b"), ("a", "add"), ("b", "add"), ("add", "c"), ("c", "output"),
    }  # fmt: skip


def test_outputs_of_one_layer_go_different_ways() -> None:
    def forward(m: Any, x: Tensor) -> dict[str, Tensor]:
        left, right = m.a(x).chunk(2, dim=1)
        return {"sum": torch.cat([m.b(left), m.c(right)]), "left": left}

    assert edges(forward, a=conv(3, 4), b=conv(2, 2), c=conv(2, 2)) == {
        ("input", "a"), ("a", "b"), ("a", "c"), ("b", "cat"), ("c", "cat"), ("cat", "output"),
        ("a", "output"),
    }  # fmt: skip


def test_a_layer_that_is_called_twice_is_two_nodes() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.a(m.b(m.a(x)))

    assert edges(forward, a=conv(), b=conv()) == {
        ("input", "a"), ("a", "b"), ("b", "a#2"), ("a#2", "output"),
    }  # fmt: skip


def test_results_in_place_are_the_layers_that_wrote_them() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        m.act(y)  # y itself changes
        return m.b(y)

    assert edges(forward, a=conv(), act=nn.ReLU(inplace=True), b=conv()) == {
        ("input", "a"), ("a", "act"), ("act", "b"), ("b", "output"),
    }  # fmt: skip


def test_pieces_that_are_written_into_a_whole() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        whole = torch.zeros(1, 6, 8, 8)
        whole[:, :3] = m.a(x)
        whole[:, 3:] = m.b(x)
        return m.d(m.c(whole)[:, :1]) + m.e(whole[:, 3:])

    layers: dict[str, Any] = {
        "a": conv(),
        "b": conv(),
        "c": conv(6, 3),
        "d": conv(1, 1),
        "e": conv(3, 1),
    }
    assert edges(forward, **layers) == {
        ("input", "a"), ("input", "b"), ("a", "c"), ("b", "c"), ("c", "d"), ("b", "e"),
        ("d", "add"), ("e", "add"), ("add", "output"),
    }  # fmt: skip


def test_pieces_that_lie_between_each_other_in_memory() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        whole = torch.zeros(1, 6, 8, 8).contiguous(memory_format=torch.channels_last)
        whole[:, :3] = m.a(x)
        whole[:, 3:] = m.b(x)
        whole[:, 1:5] = m.c(x)
        return m.d(whole)

    found = edges(forward, a=conv(), b=conv(), c=conv(3, 4), d=conv(6, 1))
    assert {source for source, target in found if target == "d"} == {"a", "b", "c"}


def test_an_old_memory_tells_nothing_of_a_new_tensor() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        for _ in range(3):  # the allocator gives the same place again
            y = m.a(x)
            y[:, :1] = 0
            del y
        return m.b(torch.ones_like(x) * 2)

    assert ("a", "b") not in edges(forward, a=conv(), b=conv())


def test_layers_that_hand_on_are_no_nodes_and_lists_no_levels() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        for layer in m.layers:
            x = layer(x)
        return x

    layers = nn.ModuleList([conv(), nn.Identity(), nn.Sequential(conv(), nn.Dropout(), conv())])
    assert edges(forward, layers=layers) == {
        ("input", "layers.0"), ("layers.0", "layers.2"), ("layers.2", "output"),
    }  # fmt: skip
    assert edges(forward, depth=2, layers=layers) == {
        ("input", "layers.0"), ("layers.0", "layers.2.0"), ("layers.2.0", "layers.2.2"),
        ("layers.2.2", "output"),
    }  # fmt: skip


def test_constants_are_no_sources_and_unused_results_no_meetings() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        a, b = m.a(x), m.b(x)
        a + b  # nobody takes it
        return a + torch.arange(8.0) * m.b.weight.mean()

    assert edges(forward, a=conv(), b=conv()) == {("input", "a"), ("input", "b"), ("a", "output")}


def test_a_model_that_is_one_layer() -> None:
    graph = model_graph(conv(), (IMAGE,), depth=3)
    assert connections(graph) == {("input", "Conv2d"), ("Conv2d", "output")}
    assert graph.nodes[1].parameters == 12
    with pytest.raises(ValueError, match="at least 1"):
        model_graph(conv(), (IMAGE,), depth=0)


@pytest.fixture
def graph() -> ModelGraph:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.b(y) + y

    inner = Built(lambda m, x: m.c(x), c=conv())
    return model_graph(Built(forward, a=conv(), b=inner).eval(), (IMAGE,), depth=2, name='a "b"\n')


def test_plain_values_hold_shapes_and_parameters(graph: ModelGraph) -> None:
    plain = json.loads(json.dumps(graph.to_dict()))
    a = plain["nodes"][1]
    assert (a["name"], a["kind"], a["output"], a["parameters"]) == (
        "a",
        "Conv2d",
        [[1, 3, 8, 8]],
        12,
    )
    assert all(edge["source"] < edge["target"] for edge in plain["edges"])
    assert plain["edges"][0]["shapes"] == [[1, 3, 8, 8]]


def test_mermaid_has_every_node_and_edge(graph: ModelGraph) -> None:
    text = mermaid(graph)
    assert text.startswith('%% a "b", layers to depth 2\nflowchart TD\n')
    assert 'subgraph part_b["b"]' in text
    assert 'n1["a<br/>Conv2d, 3x8x8, 12 params"]' in text
    assert len(re.findall(r"-->", text)) == len(graph.edges)
    assert len(re.findall(r"^ +n\d+[\[(]", text, re.MULTILINE)) == len(graph.nodes)


def test_dot_has_every_node_and_edge(graph: ModelGraph) -> None:
    text = dot(graph)
    assert text.startswith('digraph "a \\"b\\"" {')
    assert len(re.findall(r"->", text)) == len(graph.edges)
    assert len(re.findall(r"n\d+ \[label=\"(?!\d)", text)) == len(graph.nodes)
    assert text.count("{") == text.count("}")


def test_shapes_without_the_batch() -> None:
    assert shape_text([(1, 2, 3), (1, 4), (1, 5)]) == "2x3, 4, …"
    assert shape_text([(1,)]) == "1"
    assert shape_text([]) == ""
