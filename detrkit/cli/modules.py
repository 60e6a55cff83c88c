"""`detrkit modules`: the catalogue of registered components."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from detrkit.cli.options import JsonOut, Plugins

if TYPE_CHECKING:
    from detrkit.engine.module_catalogue import Cost
    from detrkit.registry import Entry

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045


def modules(
    family: Annotated[
        Optional[str],
        typer.Argument(metavar="[FAMILY]", help="As --family.", show_default=False),
    ] = None,
    of_family: Annotated[
        Optional[str],
        typer.Option(
            "--family",
            help="Only this family, e.g. backbone, loss, attention, conv.",
            show_default=False,
        ),
    ] = None,
    search: Annotated[
        Optional[str],
        typer.Option(
            metavar="WORD", help="Only with this in name, title or paper.", show_default=False
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Parameters, FLOPs, CPU milliseconds and memory of modules of maps at 64x40x40.",
        ),
    ] = False,
    markdown: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE", help="Write the table of modules as a page.", show_default=False
        ),
    ] = None,
    plugin: Plugins = None,
    json: JsonOut = False,
) -> None:
    """List every component that a config can name."""
    from detrkit.cli.console import err, out, print_json, progress_bar
    from detrkit.errors import UsageError
    from detrkit.registry import load_plugin

    if family is not None and of_family is not None:
        raise UsageError(f"the family is given twice: {family} and {of_family}")
    for file in plugin or ():
        load_plugin(file)
    shown = _chosen(family or of_family, search)
    costs: dict[str, Cost] = {}
    if measure:
        from detrkit.engine import module_catalogue

        with progress_bar("measuring", quiet=json) as progress:
            maps = [entry for entry in shown if entry.traits is not None]
            for number, entry in enumerate(maps):
                costs[entry.name] = module_catalogue.measure(entry)
                if progress is not None:
                    progress(number + 1, len(maps))
    if json:
        print_json("modules", {"modules": [_plain(entry, costs) for entry in shown]})
    elif markdown is None:
        out.print(_table(shown, costs))
    if markdown is not None:
        from detrkit.files import write_bytes

        page = _page([entry for entry in shown if entry.traits is not None], costs)
        write_bytes(markdown, page.encode())
        err.print(f"{markdown}: {len(shown)} modules", markup=False, soft_wrap=True)


def _chosen(family: str | None, search: str | None) -> list[Entry]:
    """By family, then name; one name for a component that has several."""
    from detrkit.engine.module_catalogue import summary, title
    from detrkit.errors import UsageError, did_you_mean
    from detrkit.registry import MODULES

    entries = list(MODULES)
    families = sorted({entry.family for entry in entries})
    if family is not None and family not in families:
        raise UsageError(
            f"no family `{family}`{did_you_mean(family, families)}",
            hint="families: " + ", ".join(families),
        )
    shown = [entry for entry in entries if family in (None, entry.family)]
    if search is not None:
        word = search.casefold()
        shown = [
            entry
            for entry in shown
            if any(
                word in text.casefold()
                for text in (entry.name, title(entry), summary(entry), entry.paper or "")
            )
        ]
        if not shown:
            raise UsageError(f"nothing is called `{search}` or says so")
    return sorted(shown, key=lambda entry: (entry.family, entry.name.casefold()))


def _plain(entry: Entry, costs: dict[str, Cost]) -> dict[str, Any]:
    from dataclasses import asdict

    from detrkit.engine.module_catalogue import facts, summary, title

    found = costs.get(entry.name)
    return {
        "name": entry.name,
        "family": entry.family,
        "title": title(entry),
        "summary": summary(entry),
        "arguments": list(entry.parameters),
        "inject": entry.inject,
        "share": entry.share,
        "parts": entry.parts,
        "paper": entry.paper,
        "venue": entry.venue,
        "traits": facts(entry) if entry.traits is not None else None,
        "cost": asdict(found) if found is not None else None,
        "where": entry.where,
    }


def _table(shown: list[Entry], costs: dict[str, Cost]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    from detrkit.engine.module_catalogue import summary

    table = Table(box=None, pad_edge=False)
    for column in ("family", "name", "what", "paper"):
        table.add_column(column)
    if costs:
        for column in ("params", "MFLOPs", "ms", "peak MB", "kept MB"):
            table.add_column(column, justify="right")
    for entry in shown:
        cells = [entry.family, entry.name, summary(entry), entry.paper or ""]
        if costs:
            cells += _numbers(costs.get(entry.name))
        table.add_row(*map(escape, cells))
    return table


def _numbers(cost: Cost | None) -> list[str]:
    if cost is None:
        return [""] * 5
    return [
        f"{cost.parameters:,}",
        f"{cost.flops / 1e6:.1f}",
        f"{cost.milliseconds:.2f}",
        f"{cost.peak_bytes / 1e6:.2f}",
        f"{cost.kept_bytes / 1e6:.2f}",
    ]


def _page(shown: list[Entry], costs: dict[str, Cost]) -> str:
    """Markdown: a table for each family."""
    from detrkit.engine.module_catalogue import facts, title

    lines = ["# Modules", "", "Made by `detrkit modules --measure --markdown FILE`.", ""]
    if costs:
        threads = next(iter(costs.values())).threads
        lines += [
            f"Measured at 64×40×40, one image, {threads} CPU threads, fused for inference. Peak: "
            "most bytes of tensors alive at once beside weights and input; kept: what training "
            "holds for the gradients.",
            "",
        ]
    for family in sorted({entry.family for entry in shown}):
        heads = ["module", "paper", "venue", "sizes", "ONNX", "float32"]
        heads += ["parameters", "MFLOPs", "ms", "peak MB", "kept MB"] if costs else []
        lines += [f"## {family}", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for entry in shown:
            if entry.family != family:
                continue
            known = facts(entry)
            sizes = "any" if known["any_size"] else f"multiples of {known['multiple']}"
            if known["smallest"] > 1:
                sizes += f", from {known['smallest']}"
            cells = [
                f"`{entry.name}` {title(entry)}",
                entry.paper or "",
                entry.venue or "",
                sizes,
                "yes" if known["onnx"] else f"no: {known['onnx_reason']}",
                known["float32"] or "",
                *(_numbers(costs.get(entry.name)) if costs else []),
            ]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)
