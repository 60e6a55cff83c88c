"""`--update a.b=c` and command flags -> values on top of the files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import yaml

from detrkit.config import dialect
from detrkit.config.loader import parse_value
from detrkit.config.tree import Keys, Origin, Tree, list_index
from detrkit.errors import Problem


class Flag(NamedTuple):
    """A value together with the flag that gave it, e.g. `Flag([320, 320], "--size")`."""

    value: Any
    flag: str


class Assignment(NamedTuple):
    """One value to set."""

    keys: Keys
    value: Any
    flag: str


def from_updates(updates: Iterable[str], problems: list[Problem]) -> list[Assignment]:
    """`["optimizer.lr=1e-4"]` -> assignments; the value is YAML."""
    found = []
    for text in updates:
        key, equals, value = text.strip().partition("=")
        if not equals or not key or "" in key.split("."):
            problems.append(
                Problem("--update", f"{text!r}: expected key=value, e.g. optimizer.lr=1e-4")
            )
            continue
        try:
            parsed = parse_value(value)
        except yaml.YAMLError as error:
            reason = getattr(error, "problem", None) or error
            problems.append(Problem("--update", f"{text!r}: not valid YAML: {reason}"))
            continue
        found.append(Assignment(_keys(key), parsed, "--update"))
    return found


def from_mapping(values: Mapping[str, Any], origin: str | None = None) -> list[Assignment]:
    """`{"epochs": 5}` -> assignments; without `origin` the flag is the key's: `--epochs`."""
    found = []
    for key, value in values.items():
        flag = origin or "--" + key.replace("_", "-")
        if isinstance(value, Flag):
            value, flag = value
        found.append(Assignment(_keys(key), value, flag))
    return found


def apply(tree: Tree, assignments: Iterable[Assignment], problems: list[Problem]) -> None:
    """Sets the values in order, as one layer above everything in `tree`."""
    layer = tree.top_layer + 1
    for keys, value, flag in assignments:
        try:
            tree.set(_existing(tree.data, keys), value, Origin(flag=flag, layer=layer))
        except LookupError as error:
            problems.append(Problem(flag, f"{'.'.join(map(str, keys))}: {error.args[0]}"))


def _keys(key: str) -> Keys:
    return tuple(dialect.canonical(key).split("."))


def _existing(data: Any, keys: Keys) -> Keys:
    """`keys` with the numbers that lists and number-keyed mappings want."""
    found: list[Any] = []
    for depth, key in enumerate(keys):
        if isinstance(data, list):
            key = list_index(data, keys[: depth + 1])
            data = data[key]
        elif isinstance(data, dict):
            if key not in data and str(key).isdigit() and int(str(key)) in data:
                key = int(str(key))
            data = data.get(key)
        else:
            data = None
        found.append(key)
    return tuple(found)
