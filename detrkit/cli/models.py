"""`detrkit models`: the catalogue of configs that come with detrkit."""

from __future__ import annotations

from detrkit.cli.options import JsonOut


def models(json: JsonOut = False) -> None:
    """List the configs that can be given by name."""
    from rich.table import Table

    from detrkit.cli.console import out, print_json
    from detrkit.config.catalogue import catalogue
    from detrkit.config.tree import shown_path

    entries = catalogue()
    if json:
        print_json(
            "models",
            {
                "models": [
                    {
                        "name": entry.name,
                        "alias": entry.alias,
                        "path": str(entry.path),
                        "summary": entry.summary,
                    }
                    for entry in entries
                ]
            },
        )
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("what")
    table.add_column("file", overflow="fold")
    for entry in entries:
        table.add_row(entry.alias, entry.summary, shown_path(entry.path))
    out.print(table)
