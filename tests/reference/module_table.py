"""A table of the paper modules and what the reference numbers say of each.

    python -m tests.reference.module_table > table.md

Every case runs through its adapter, as in `tests/modules/test_reference.py`: shapes of parameters
and outputs, and the outputs where they are published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from detrkit.registry import MODULES, Entry
from tests.modules.test_reference import CASES, check_case
from tests.reference import modules


@dataclass
class Row:
    """Of one module of the cases.

    Attributes:
        components: registered modules that its cases are built of.
        equal: cases whose published outputs ours has.
        shapes: cases without outputs, whose shapes ours has.
        failed: cases that ours does not meet.
    """

    components: dict[str, Entry] = field(default_factory=dict)
    equal: int = 0
    shapes: int = 0
    failed: list[str] = field(default_factory=list)


def table() -> str:
    """In Markdown, by category and name."""
    rows: dict[tuple[str, str], Row] = {}
    for case in CASES:
        row = rows.setdefault((case.category, case.module), Row())
        row.components |= {entry.name: entry for entry in entries_of(modules.build(case))}
        try:
            check_case(case)
        except AssertionError:
            row.failed.append(case.id)
            continue
        if case.outputs is None:
            row.shapes += 1
        else:
            row.equal += 1
    lines = ["| category | module | registered | paper | reference |", "|---|---|---|---|---|"]
    for (category, name), row in sorted(rows.items()):
        components = ", ".join(f"`{name}`" for name in sorted(row.components))
        papers = sorted({entry.paper or "" for entry in row.components.values()})
        cells = [category, name, components, "; ".join(papers), verdict(name, row)]
        lines.append("| " + " | ".join(cells) + " |")
    counts = [sum(getattr(row, part) for row in rows.values()) for part in ("equal", "shapes")]
    lines += ["", f"{len(CASES)} cases: {counts[0]} outputs equal, {counts[1]} shapes only."]
    return "\n".join(lines)


def entries_of(module: nn.Module) -> list[Entry]:
    """The registered module that an adapter built: the outermost one, or what its class extends.

    Of several beside each other, none within another.
    """
    known: dict[Any, Entry] = {}
    for entry in MODULES:
        if entry.traits is not None:
            known.setdefault(entry.factory, entry)  # the first of several names
    for kind in type(module).__mro__:
        if kind in known:
            return [known[kind]]
    return [entry for child in module.children() for entry in entries_of(child)]


def verdict(name: str, row: Row) -> str:
    """Golden equal, corrected form or no reference; what differs is named."""
    if row.failed:
        return f"**differs: {', '.join(row.failed)}**"
    words: list[Any] = []
    if row.equal:
        words.append(f"golden equal ({row.equal} cases)")
    else:
        words.append(f"no reference outputs ({row.shapes} cases, shapes hold)")
    corrected = modules.adapters()[name].corrected
    if corrected:
        words.append(f"registered in a corrected form: {corrected}")
    return "; ".join(words)


if __name__ == "__main__":
    print(table())
