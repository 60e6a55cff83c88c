"""`detrkit show-config`: what a config resolves to, where each value was set, what differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from detrkit.cli.options import ConfigArg, JsonOut, Plugins, Updates

if TYPE_CHECKING:
    from detrkit.config import Config

# ruff: noqa: UP045


def show_config(
    cfg: ConfigArg,
    update: Updates = None,
    plugin: Plugins = None,
    origin: Annotated[
        bool, typer.Option("--origin", help="Show the file and line, or flag, of every value.")
    ] = False,
    diff: Annotated[
        Optional[str],
        typer.Option("--diff", metavar="CFG", help="Show only what another config has otherwise."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show the training schedule instead.")
    ] = False,
    batches: Annotated[
        int, typer.Option("--batches", min=1, help="Batches per epoch that --plan assumes.")
    ] = 100,
    quirks: Annotated[
        bool, typer.Option("--quirks", help="Show the authors' quirks in force instead.")
    ] = False,
    json: JsonOut = False,
) -> None:
    """Print a config with everything resolved: includes, overrides, short forms.

    A config with mistakes is printed as far as it loads; the mistakes follow, with exit code 3.
    """
    from detrkit.cli.console import print_json
    from detrkit.config import check, checked, load_config

    config = load_config(cfg, update=update or (), plugins=plugin or (), strict=False)
    problems = check(config)
    if not problems:
        config = checked(config)
    payload: dict[str, Any] = {"name": config.name, "path": str(config.path)}
    if diff is not None:
        other = load_config(diff, plugins=plugin or (), strict=False)
        payload |= {"other": other.name, "diff": _differences(config, other)}
    elif plan:
        payload["plan"] = _plan(config, batches)
    elif quirks:
        payload["quirks"] = _quirks(config)
    else:
        payload["config"] = config.tree
        if origin:
            payload["origins"] = {key: where for key, _, where in _rows(config)}
    if json:
        problem_rows = [{"where": p.where, "message": p.message} for p in problems]
        print_json("config", {**payload, "problems": problem_rows})
    else:
        _print(config, payload, origin=origin, batches=batches)
    checked(config)  # raises the problems once everything is printed


def _print(config: Config, payload: dict[str, Any], *, origin: bool, batches: int) -> None:
    from detrkit.cli.console import out

    if "diff" in payload:
        rows = [(d["key"], _side_text(d["this"]), _side_text(d["other"])) for d in payload["diff"]]
        _table(("key", payload["name"], payload["other"]), rows)
    elif "plan" in payload:
        from detrkit.engine.derive import derive_schedule
        from detrkit.engine.plan import Plan

        tree = derive_schedule(config, batches).tree
        text = Plan.from_tree(tree, batches_per_epoch=batches).describe()
        out.print(text, markup=False, soft_wrap=True)
    elif "quirks" in payload:
        rows = [(q["name"], q["sentence"], q["where"]) for q in payload["quirks"]]
        _table(("quirk", "what happens", "where"), rows)
    elif origin:
        _table(("key", "value", "set by"), [(k, _shown(v), w) for k, v, w in _rows(config)])
    else:
        out.print(config.dump(), markup=False, soft_wrap=True, end="")


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    from detrkit.cli.console import out

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if not out.is_terminal:  # a file or pipe takes lines of any length: one row, one line
        widths = [max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
        out.width = max(out.width, sum(widths) + 2 * len(widths))
    out.print(table)


def _rows(config: Config) -> list[tuple[str, Any, str]]:
    """Key, value and origin of every scalar and every list of scalars."""
    from detrkit.config.tree import dotted

    return [
        (dotted(keys), value, str(config.origin_of(keys) or ""))
        for keys, value in _leaves(config.tree, ())
    ]


def _leaves(value: Any, keys: tuple[Any, ...]) -> list[tuple[tuple[Any, ...], Any]]:
    nested = isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)
    if not value or not (isinstance(value, dict) or nested):
        return [(keys, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [leaf for key, item in items for leaf in _leaves(item, (*keys, key))]


def _differences(this: Config, other: Config) -> list[dict[str, Any]]:
    ours = {key: (value, where) for key, value, where in _rows(this)}
    theirs = {key: (value, where) for key, value, where in _rows(other)}
    absent = (None, None)
    return [
        {
            "key": key,
            "this": _side(*ours.get(key, absent)),
            "other": _side(*theirs.get(key, absent)),
        }
        for key in dict.fromkeys([*ours, *theirs])
        if (key in ours) != (key in theirs) or ours[key][0] != theirs[key][0]
    ]


def _side(value: Any, where: str | None) -> dict[str, Any] | None:
    return None if where is None else {"value": value, "origin": where}


def _side_text(side: dict[str, Any] | None) -> str:
    return "-" if side is None else f"{_shown(side['value'])}  ({side['origin']})"


def _shown(value: Any) -> str:
    """A value on one line, as YAML."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n...\n").strip()


def _plan(config: Config, batches: int) -> dict[str, Any]:
    from detrkit.engine.derive import derive_schedule
    from detrkit.engine.plan import Plan

    config = derive_schedule(config, batches)  # what `schedule: auto` means for so many batches
    return Plan.from_tree(config.tree, batches_per_epoch=batches).to_dict()


def _quirks(config: Config) -> list[dict[str, str]]:
    from detrkit.engine.quirks import quirks_in_force

    return [
        {"name": quirk.name, "sentence": quirk.sentence, "where": quirk.where}
        for quirk in quirks_in_force(config.tree)
    ]
