"""`detrkit modules`: the catalogue of registered components."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from detrkit.cli.options import JsonOut, Plugins

# ruff: noqa: UP045


def modules(
    family: Annotated[
        Optional[str],
        typer.Argument(metavar="FAMILY", help="Only this family, e.g. backbone, loss, transform."),
    ] = None,
    plugin: Plugins = None,
    json: JsonOut = False,
) -> None:
    """List every component that a config can name."""
    from rich.table import Table

    from detrkit.cli.console import out, print_json
    from detrkit.errors import UsageError, did_you_mean
    from detrkit.registry import MODULES, load_plugin

    for file in plugin or ():
        load_plugin(file)
    entries = list(MODULES)
    families = sorted({entry.family for entry in entries})
    if family is not None and family not in families:
        raise UsageError(
            f"no family `{family}`{did_you_mean(family, families)}",
            hint="families: " + ", ".join(families),
        )
    shown = [entry for entry in entries if family in (None, entry.family)]
    if json:
        print_json(
            "modules",
            {
                "modules": [
                    {
                        "name": entry.name,
                        "family": entry.family,
                        "arguments": list(entry.parameters),
                        "inject": entry.inject,
                        "share": entry.share,
                        "paper": entry.paper,
                        "where": entry.where,
                    }
                    for entry in shown
                ]
            },
        )
        return
    table = Table(box=None, pad_edge=False)
    for column in ("family", "name", "what", "paper"):
        table.add_column(column)
    for entry in sorted(shown, key=lambda entry: (entry.family, entry.name)):
        summary = (entry.factory.__doc__ or "").strip().splitlines()
        table.add_row(entry.family, entry.name, summary[0] if summary else "", entry.paper or "")
    out.print(table)
