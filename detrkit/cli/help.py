"""The text of `detrkit --help`.

Typer's own page imports a Markdown renderer and builds every command's parameters, which takes
as long as everything else together; this page needs the first lines of the docstrings only.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from detrkit.cli import console


def command_function(name: str) -> Callable[..., None]:
    """The function behind a command: `show-config` -> `detrkit.cli.show_config.show_config`."""
    function_name = name.replace("-", "_")
    module = importlib.import_module(f"detrkit.cli.{function_name}")
    function: Callable[..., None] = getattr(module, function_name)
    return function


def inner_commands(name: str) -> Mapping[str, Callable[..., None]] | None:
    """The commands of a group: `COMMANDS` of its file; None for a single command."""
    module = importlib.import_module(f"detrkit.cli.{name.replace('-', '_')}")
    commands: Mapping[str, Callable[..., None]] | None = getattr(module, "COMMANDS", None)
    return commands


def print_help(
    usage: str,
    summary: str,
    epilog: str,
    options: Iterable[tuple[str, str]],
    panels: Mapping[str, Sequence[str]],
    aliases: Mapping[str, str],
) -> None:
    """Prints the page on stdout.

    Args:
        usage: "detrkit [OPTIONS] COMMAND [ARGS]...".
        summary: what the program is for.
        epilog: below the panels.
        options: flags and what they do.
        panels: titles and the commands in each; empty panels are left out.
        aliases: other names of commands, shown with what the command does.
    """
    out = console.out
    out.print(Text.assemble(("usage: ", "bold yellow"), usage), soft_wrap=True)
    out.print(Text(f"\n{summary}\n"))
    commands = [name for names in panels.values() for name in names]
    width = max(map(len, commands), default=0)
    for title, names in panels.items():
        if names:
            rows = [(name, _summary(name, aliases)) for name in names]
            out.print(_panel(title, rows, width))
    out.print(_panel("Options", options, width))
    out.print(Text(f"\n{epilog}", style="dim"))


def options_of(command: Any, ctx: Any) -> list[tuple[str, str]]:
    """Flags and help of a command, as click writes them."""
    records = [parameter.get_help_record(ctx) for parameter in command.get_params(ctx)]
    return [(record[0], record[1]) for record in records if record]


def _summary(name: str, aliases: Mapping[str, str]) -> str:
    others = ", ".join(f"`{alias}`" for alias, command in aliases.items() if command == name)
    return _first_line(command_function(name)) + (f" Also {others}." if others else "")


def _first_line(function: Callable[..., None]) -> str:
    return (inspect.getdoc(function) or "").split("\n", 1)[0]


def _panel(title: str, rows: Iterable[tuple[str, str]], width: int) -> Panel:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", no_wrap=True, min_width=width)
    table.add_column()
    for name, text in rows:
        table.add_row(Text(name), Text(text))
    return Panel(
        table,
        title=title,
        title_align="left",
        border_style="dim",
        width=min(console.out.width, 100),
    )
