"""The graph of a model: layers down to some depth, and the tensors that flow between them.

Every operation of a trace belongs to a node: the layer that ran, cut off at the depth. Where a node
takes what another one made, an edge lies between them.

What a layer computes between the layers that it calls ("x + self.block(x)") is a node of its own
only where tensors of several nodes meet, with the names of the operations; computations on one
tensor are passed through. What follows on a meeting before another layer takes it is part of it,
and so are others of the same tensors: three levels that are joined alike are one node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import nn

from detrkit.engine.layerwise.counting import Shapes
from detrkit.engine.layerwise.trace import Operation, Trace, trace

Role = Literal["layer", "operation", "input", "output"]


@dataclass(frozen=True, slots=True)
class Node:
    """A layer, at one of its calls.

    Attributes:
        index: its number; a node takes tensors of nodes with lower numbers only.
        name: of the layer; of a meeting of tensors, that of the layer which computes it.
        kind: class of the layer; operations of a meeting: "cat", "add, mul".
        role: what it is.
        output: shapes of what it returned; of a meeting, of what it made last.
        parameters: in the layer and below.
        call: which call of this layer it is, from 1.
    """

    index: int
    name: str
    kind: str
    role: Role
    output: Shapes
    parameters: int = 0
    call: int = 1

    @property
    def part(self) -> str:
        """The part of the model that it is in: "backbone"."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Edge:
    """Tensors that one node made and another took.

    Attributes:
        source, target: numbers of nodes.
        shapes: of the tensors as they were taken, each different one once.
    """

    source: int
    target: int
    shapes: Shapes


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """Layers and the tensors between them.

    Attributes:
        name: of the model.
        depth: of calls that are told apart; a list of layers is no level of its own.
        nodes: sources before targets.
        edges: by target, then source.
    """

    name: str
    depth: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def model_graph(
    model: nn.Module, inputs: Sequence[Any], *, depth: int = 2, name: str = ""
) -> ModelGraph:
    """Runs a model once and follows its tensors.

    Args:
        model: in evaluation.
        inputs: its arguments.
        depth: of calls: 1 tells apart what the model itself calls.
        name: of the model, for titles.

    Raises:
        ValueError: the depth is less than one.
    """
    return graph_of(trace(model, inputs), depth, name or type(model).__name__)


def graph_of(found: Trace, depth: int, name: str = "") -> ModelGraph:
    """The graph of a trace.

    Args:
        found: what a model did.
        depth, name: as of `model_graph`.

    Raises:
        ValueError: the depth is less than one.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    grouping = _Grouping(found, depth)
    for number, operation in enumerate(found.operations, start=1):
        grouping.take(number, operation)
    return grouping.finished(name)


@dataclass
class _Growing:
    """A node whose edges are not all known yet."""

    name: str
    kinds: dict[str, None]
    role: Role
    order: float
    output: Shapes = ()
    parameters: int = 0
    frame: int = -1
    sources: dict[int, dict[tuple[int, ...], None]] = field(default_factory=dict)
    consumed: bool = False


class _Grouping:
    """Gives operations to nodes, one after the other."""

    def __init__(self, found: Trace, depth: int) -> None:
        self.trace, self.depth = found, depth
        shapes = tuple(found.shapes[value] for value in found.inputs)
        self.nodes = [_Growing("input", {}, "input", 0, shapes)]
        self.made: dict[int, int] = dict.fromkeys(found.inputs, 0)  # value -> node
        self.of_call: dict[int, int] = {}

    def take(self, number: int, operation: Operation) -> None:
        """The next operation."""
        call, node = self._cut(operation.call), None
        if call is not None and self._is_node(call):
            node = self._layer(call, number)
            self._connect(node, operation.taken)
        else:
            node = self._between(number, operation)
        for value in operation.made:
            if node is not None:
                self.made[value] = node
            else:
                self.made.pop(value, None)

    def finished(self, name: str) -> ModelGraph:
        """The graph."""
        found = self.trace
        end = len(self.nodes)
        shapes = tuple(found.shapes[value] for value in found.outputs)
        self.nodes.append(_Growing("output", {}, "output", float("inf"), shapes))
        self._connect(end, found.outputs)
        kept = [n for n in self.nodes if n.role != "operation" or n.consumed]
        kept.sort(key=lambda node: node.order)
        index = {id(node): number for number, node in enumerate(kept)}
        times: dict[str, int] = {}
        nodes, edges = [], []
        for number, node in enumerate(kept):
            if node.role == "layer":
                times[node.name] = times.get(node.name, 0) + 1
            nodes.append(
                Node(
                    number, node.name, ", ".join(node.kinds), node.role, node.output,
                    node.parameters, times.get(node.name, 1),
                )
            )  # fmt: skip
            sources = {index[id(self.nodes[s])]: taken for s, taken in node.sources.items()}
            edges += [Edge(s, number, tuple(taken)) for s, taken in sorted(sources.items())]
        return ModelGraph(name, self.depth, tuple(nodes), tuple(edges))

    def _cut(self, call: int) -> int | None:
        """The call that an operation belongs to: none below the depth."""
        if call < 0:
            return None
        while self.trace.calls[call].level > self.depth:
            call = self.trace.calls[call].caller
        return call

    def _is_node(self, number: int) -> bool:
        call = self.trace.calls[number]
        return call.level == self.depth or not call.calls

    def _layer(self, number: int, order: int) -> int:
        if number not in self.of_call:
            self.of_call[number] = len(self.nodes)
            call = self.trace.calls[number]
            name = call.name or call.kind
            self.nodes.append(
                _Growing(name, {call.kind: None}, "layer", order, call.output, call.parameters)
            )
        return self.of_call[number]

    def _between(self, number: int, operation: Operation) -> int | None:
        """The node of an operation that a layer does between the layers that it calls."""
        sources = list(dict.fromkeys(self._makers(operation.taken)))
        if len(sources) < 2:
            return sources[0] if sources else None
        meeting = self._open_meeting(operation.call, sources)
        if meeting is None:
            meeting = len(self.nodes)
            name = self.trace.calls[operation.call].name if operation.call >= 0 else ""
            self.nodes.append(_Growing(name, {}, "operation", number, frame=operation.call))
        node = self.nodes[meeting]
        node.order = number
        node.kinds[operation.name] = None
        node.output = tuple(self.trace.shapes[value] for value in operation.made)
        self._connect(meeting, operation.taken)
        return meeting

    def _open_meeting(self, frame: int, sources: Sequence[int]) -> int | None:
        """A meeting in the same call of which nothing was taken yet, and which this one joins."""
        found = [s for s in sources if self._is_open(s, frame)]
        if found:
            return max(found, key=lambda s: self.nodes[s].order)
        for number in range(len(self.nodes) - 1, -1, -1):
            if self._is_open(number, frame) and set(sources) == set(self.nodes[number].sources):
                return number
        return None

    def _is_open(self, number: int, frame: int) -> bool:
        node = self.nodes[number]
        return node.role == "operation" and node.frame == frame and not node.consumed

    def _makers(self, values: Sequence[int]) -> Iterator[int]:
        yield from (self.made[value] for value in values if value in self.made)

    def _connect(self, target: int, values: Sequence[int]) -> None:
        for value in values:
            source = self.made.get(value)
            if source is not None and source != target:
                self.nodes[target].sources.setdefault(source, {})[self.trace.shapes[value]] = None
                self.nodes[source].consumed = True
