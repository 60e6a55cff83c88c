"""`detrkit models`: the catalogue of configs that come with detrkit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from detrkit.cli.options import JsonOut

if TYPE_CHECKING:
    from detrkit.config import CatalogueEntry
    from detrkit.config.published import Weights

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045

NOTES = (
    "As the authors published it, not measured here: AP on COCO val2017 (of Objects365 models on "
    "its own); latency of one image on a T4 GPU with TensorRT in fp16."
)


def models(
    name: Annotated[
        Optional[str],
        typer.Argument(
            metavar="NAME",
            help="Only names that contain this; one model's own name shows everything about it.",
        ),
    ] = None,
    family: Annotated[
        Optional[str],
        typer.Option(
            metavar="FAMILY",
            help="Only this family: rtdetrv2, dfine, deim_rtdetrv2, deim_dfine, deimv2.",
        ),
    ] = None,
    json: JsonOut = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Tables of the published models for a page.")
    ] = False,
) -> None:
    """List the models: size, cost, published accuracy, config and weights."""
    from detrkit.cli.console import out, print_json
    from detrkit.errors import UsageError

    if json and markdown:
        raise UsageError("--json and --markdown are two formats of one list; give one of them")
    shown = _chosen(name, family)
    if json:
        print_json("models", {"models": [_plain(entry) for entry in shown]})
    elif markdown:
        out.print(_markdown(shown), soft_wrap=True, markup=False)
    elif len(shown) == 1:
        _print_entry(shown[0])
    else:
        _print_table(shown)


def _chosen(name: str | None, family: str | None) -> list[CatalogueEntry]:
    from detrkit.config.catalogue import FAMILIES, catalogue
    from detrkit.errors import UsageError, did_you_mean

    if family is not None and family not in FAMILIES:
        raise UsageError(
            f"no family `{family}`{did_you_mean(family, FAMILIES)}",
            hint="families: " + ", ".join(FAMILIES),
        )
    entries = [entry for entry in catalogue() if family in (None, entry.family)]
    entries.sort(key=lambda entry: entry.rank)
    if name is None:
        return entries
    exact = [entry for entry in entries if name in entry.names]
    chosen = exact or [e for e in entries if any(name.lower() in text for text in e.names)]
    if not chosen:
        near = did_you_mean(name, [text for entry in entries for text in entry.names])
        raise UsageError(f"no model's name contains `{name}`{near}", hint="`detrkit models`")
    return chosen


def _plain(entry: CatalogueEntry) -> dict[str, Any]:
    from dataclasses import asdict

    numbers = entry.published
    return {
        "name": entry.name,
        "alias": entry.alias,
        "path": str(entry.path),
        "summary": entry.summary,
        "family": entry.family or None,
        "size": entry.size or None,
        "data": entry.data or None,
        "published": None if numbers is None else asdict(numbers),
    }


def _print_table(entries: list[CatalogueEntry]) -> None:
    from itertools import groupby

    from rich.table import Table

    from detrkit.cli.console import out
    from detrkit.config.catalogue import FAMILIES

    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for title in ("size", "trained on"):
        table.add_column(title)
    for title in ("M params", "GFLOPs", "AP", "T4"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("weights")
    for family, group in groupby(entries, key=lambda entry: entry.family):
        if family:
            table.add_row(f"[bold]{FAMILIES[family]}[/]")
        for entry in group:
            cells = _cells(entry)
            weights = entry.published.weights if entry.published else ()
            hosts = dict.fromkeys(file.host for file in weights)
            table.add_row(entry.alias, *cells, ", ".join(hosts))
    out.print(table)
    out.print(f"\n[dim]{NOTES} `detrkit models NAME` says where the weights are.[/]")


def _cells(entry: CatalogueEntry) -> list[str]:
    """Size, data, parameters, operations, AP, latency."""
    numbers = entry.published
    if numbers is None:
        return [entry.size, entry.data, "", "", "", ""]
    latency = f"{numbers.latency:.2f} ms" if numbers.latency else ""
    if numbers.fps:
        latency = f"{numbers.fps:g} FPS"
    side = "" if numbers.input == 640 else f" @{numbers.input}"
    return [
        f"{entry.size}{side}",
        entry.data,
        "" if numbers.params is None else f"{numbers.params}",
        "" if numbers.gflops is None else f"{numbers.gflops}",
        "" if numbers.ap is None else f"{numbers.ap:.1f}",
        latency,
    ]


def _print_entry(entry: CatalogueEntry) -> None:
    from rich.table import Table

    from detrkit.cli.console import out
    from detrkit.config.catalogue import FAMILIES
    from detrkit.config.tree import shown_path

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("config", shown_path(entry.path))
    if entry.alias != entry.name:
        table.add_row("short name", entry.alias)
    if entry.family:
        table.add_row("family", FAMILIES[entry.family])
    if entry.data:
        table.add_row("trained on", entry.data)
    numbers = entry.published
    if numbers is not None:
        size, _, parameters, gflops, ap, latency = _cells(entry)
        table.add_row("size", size)
        for title, text in (
            ("parameters", f"{parameters} M" if parameters else ""),
            ("GFLOPs", f"{gflops} at {numbers.input} x {numbers.input}" if gflops else ""),
            ("AP", f"{ap} on {numbers.ap_on}" if ap else ""),
            ("latency", f"{latency} on a T4, TensorRT, fp16" if latency else ""),
        ):
            if text:
                table.add_row(title, text)
        for file in numbers.weights:
            table.add_row("weights", file.url)
            if file.ap or file.what:
                about = (f"AP {file.ap:.1f}" if file.ap else "", file.what)
                table.add_row("", ", ".join(filter(None, about)))
        table.add_row("license", numbers.license)
        table.add_row("published in", numbers.readme)
    out.print(f"[bold]{entry.name}[/]: {entry.summary}\n", highlight=False)
    out.print(table)


def _label(file: Weights) -> str:
    """The host, and the AP where it is not that of the table."""
    return f"{file.host}, AP {file.ap:.1f}" if file.ap else file.host


def _markdown(entries: list[CatalogueEntry]) -> str:
    """A table for each family, of the models with published numbers."""
    from itertools import groupby

    from detrkit.config.catalogue import FAMILIES

    titles = "| name | size | trained on | M params | GFLOPs | AP | T4 | weights |"
    lines = []
    known = [(entry, entry.published) for entry in entries if entry.published is not None]
    for family, group in groupby(known, key=lambda pair: pair[0].family):
        rows = list(group)
        lines += [f"**{FAMILIES[family]}**, published [here]({rows[0][1].readme})", ""]
        lines += [titles, "|---|---|---|--:|--:|--:|--:|---|"]
        for entry, numbers in rows:
            links = ", ".join(f"[{_label(file)}]({file.url})" for file in numbers.weights)
            cells = [f"`{entry.alias}`", *_cells(entry), links]
            lines.append("| " + " | ".join(cell.replace("*", r"\*") for cell in cells) + " |")
        lines.append("")
        notes = list(dict.fromkeys(numbers.license for _, numbers in rows))
        for note in notes:
            names = ", ".join(f"`{entry.alias}`" for entry, n in rows if n.license == note)
            lines.append(f"- License: {note}" + (f" ({names})" if len(notes) > 1 else ""))
        lines.append("")
    return "\n".join([*lines, NOTES])
