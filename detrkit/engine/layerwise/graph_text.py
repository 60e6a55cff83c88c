"""The graph of a model as text that other programs draw: Mermaid and DOT."""

from __future__ import annotations

from collections.abc import Sequence

from detrkit.engine.layerwise.flow import ModelGraph, Node
from detrkit.words import scaled


def shape_text(shapes: Sequence[Sequence[int]], most: int = 2, times: str = "x") -> str:
    """`64x80x80, 128x40x40`: shapes without the batch, the first ones; empty without any.

    Args:
        shapes: with the batch in front.
        most: how many are written out.
        times: between the sides.
    """
    shown = [times.join(map(str, shape[1:])) or "1" for shape in shapes[:most]]
    return ", ".join(shown) + (", …" if len(shapes) > most else "")


def title_of(node: Node) -> str:
    """The first line of a node: a layer's name, with the number of its call from the second on."""
    if node.role == "operation":
        return node.kind
    return f"{node.name} ({node.call})" if node.call > 1 else node.name


def facts_of(node: Node, times: str = "x") -> str:
    """The second line: kind, output, parameters, as far as there is something to say."""
    facts = [node.kind if node.role == "layer" else "", shape_text(node.output, times=times)]
    if node.parameters:
        facts.append(f"{scaled(node.parameters)} params")
    return ", ".join(fact for fact in facts if fact)


def mermaid(graph: ModelGraph) -> str:
    """A flow chart for Mermaid, which GitHub draws in Markdown."""
    lines = [f"%% {_one_line(graph.name)}, layers to depth {graph.depth}", "flowchart TD"]
    for part, nodes in _parts(graph):
        indent = "    "
        if part:
            lines.append(f'    subgraph {_identifier(part)}["{_quoted(part)}"]')
            indent *= 2
        for node in nodes:
            text = _quoted(title_of(node))
            if facts := facts_of(node):
                text += f"<br/>{_quoted(facts)}"
            left, right = ("[", "]") if node.role == "layer" else ("([", "])")
            lines.append(f'{indent}n{node.index}{left}"{text}"{right}')
        if part:
            lines.append("    end")
    for edge in graph.edges:
        lines.append(f'    n{edge.source} -->|"{_quoted(shape_text(edge.shapes))}"| n{edge.target}')
    return "\n".join(lines) + "\n"


def dot(graph: ModelGraph) -> str:
    """A directed graph for Graphviz."""
    lines = [
        f'digraph "{_escaped(graph.name)}" {{',
        '    node [shape=box, fontname="Helvetica", fontsize=10]',
        '    edge [fontname="Helvetica", fontsize=8]',
    ]
    for part, nodes in _parts(graph):
        indent = "    "
        if part:
            lines.append(f'    subgraph "cluster_{_escaped(part)}" {{')
            lines.append(f'        label="{_escaped(part)}"')
            indent *= 2
        for node in nodes:
            text = "\\n".join(_escaped(t) for t in (title_of(node), facts_of(node)) if t)
            style = "" if node.role == "layer" else ", style=rounded"
            lines.append(f'{indent}n{node.index} [label="{text}"{style}]')
        if part:
            lines.append("    }")
    for edge in graph.edges:
        label = _escaped(shape_text(edge.shapes))
        lines.append(f'    n{edge.source} -> n{edge.target} [label="{label}"]')
    return "\n".join([*lines, "}"]) + "\n"


def _parts(graph: ModelGraph) -> list[tuple[str, list[Node]]]:
    """Nodes by the part of the model; those of no part under ""."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        inside = node.role in ("layer", "operation")
        found.setdefault(node.part if inside else "", []).append(node)
    return list(found.items())


def _identifier(part: str) -> str:
    return "part_" + "".join(c if c.isalnum() and c.isascii() else "_" for c in part)


def _quoted(text: str) -> str:
    return _one_line(text).replace('"', "#quot;").replace("<", "&lt;").replace(">", "&gt;")


def _escaped(text: str) -> str:
    return _one_line(text).replace("\\", "\\\\").replace('"', '\\"')


def _one_line(text: str) -> str:
    return " ".join(text.split())
