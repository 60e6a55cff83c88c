"""What `detrkit info MODULE` prints: arguments, paper, what it asks of its input, cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detrkit.registry import Entry


def component(entry: Entry) -> dict[str, Any]:
    """Plain values."""
    import inspect
    from dataclasses import asdict

    from detrkit.engine.module_catalogue import facts, measure

    empty = inspect.Parameter.empty
    return {
        "name": entry.name,
        "family": entry.family,
        "arguments": {
            name: {
                "type": _type_of(p.annotation),
                "required": p.default is empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL),
                "default": None if p.default is empty else p.default,
                "from": "component" if name in entry.inject
                else "top-level key" if name in entry.share
                else "module of maps" if name in entry.parts else "section",
            }
            for name, p in entry.parameters.items()
        },
        "paper": entry.paper,
        "venue": entry.venue,
        "traits": facts(entry) if entry.traits is not None else None,
        "cost": asdict(measure(entry)) if entry.traits is not None else None,
        "example": dict(entry.example) if entry.example else None,
        "where": entry.where,
        "documentation": inspect.getdoc(entry.factory) or "",
    }  # fmt: skip


def _type_of(annotation: object) -> str | None:
    import inspect

    if annotation is inspect.Parameter.empty:
        return None
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def print_component(entry: Entry, description: dict[str, Any]) -> None:
    """For a terminal.

    Args:
        entry: the component.
        description: of `component`.
    """
    from rich.markup import escape
    from rich.table import Table

    from detrkit.cli.console import out

    out.print(f"[bold]{entry.name}[/], {entry.family}" + (f", {entry.paper}" * bool(entry.paper)))
    out.print(f"[dim]{escape(entry.where)}[/]\n", soft_wrap=True)
    if description["documentation"]:
        out.print(escape(str(description["documentation"])) + "\n")
    table = Table(box=None, pad_edge=False)
    for title in ("argument", "default", "type", "set by"):
        table.add_column(title)
    for name, argument in description["arguments"].items():
        default = "required" if argument["required"] else repr(argument["default"])
        where = argument["from"] if argument["from"] != "section" else ""
        table.add_row(name, escape(default), escape(str(argument["type"] or "")), where)
    out.print(table)
    if entry.example:
        out.print(f"\nexample: {escape(str(dict(entry.example)))}")
    if entry.traits is not None:
        _print_module_of_maps(description["traits"], description["cost"])


def _print_module_of_maps(traits: dict[str, Any], cost: dict[str, Any]) -> None:
    """What it asks of its input and of tools, and what it costs."""
    from rich.markup import escape

    from detrkit.cli.console import out
    from detrkit.words import scaled

    sizes = (
        "any size" if traits["any_size"] else f"height and width multiples of {traits['multiple']}"
    )
    if traits["smallest"] > 1:
        sizes += f", at least {traits['smallest']}"
    lines = {
        "input": sizes,
        "ONNX": "yes" if traits["onnx"] else f"no: {traits['onnx_reason']}",
        "mixed precision": f"in float32: {traits['float32']}" if traits["float32"] else "yes",
        "parameters": f"{cost['parameters']:,}, deployed {cost['deployed']:,}",
        "FLOPs": scaled(cost["flops"]),
        "CPU": f"{cost['milliseconds']:.2f} ms on {cost['threads']} threads",
        "memory": f"{cost['peak_bytes'] / 1e6:.2f} MB at its peak, training keeps "
        f"{cost['kept_bytes'] / 1e6:.2f} MB",
        "measured with": f"{cost['arguments']} on 40x40 -> {cost['output']}",
    }
    out.print()
    for name, text in lines.items():
        out.print(f"{name:<16}{escape(text)}", soft_wrap=True)
