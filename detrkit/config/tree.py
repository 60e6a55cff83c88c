"""A nested mapping whose every value remembers where it was set; how two of them merge."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Where a value lives: ("optimizer", "params", 0, "lr").
Keys = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """What set a value: a line of a file, or something else such as a flag.

    Attributes:
        file: the YAML file, or None.
        line: counted from 1.
        flag: "--update", "--epochs", "data set", … where no file set the value.
        layer: position in the order of merging; a higher layer was set later.
    """

    file: str | None = None
    line: int | None = None
    flag: str | None = None
    layer: int = field(default=0, compare=False, repr=False)

    def __str__(self) -> str:
        if self.flag is not None:
            return self.flag
        return f"{shown_path(self.file)}:{self.line}" if self.file else ""

    def seen_from(self, file: str | None) -> str:
        """`line 14` for a value of `file` itself, else `other.yml:14` or the flag."""
        return f"line {self.line}" if file and self.file == file else str(self)


def shown_path(path: str | Path) -> str:
    """A path as people like to read it: relative where it lies below the working folder."""
    path = Path(path)
    try:
        return path.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)


@dataclass
class Tree:
    """Nested plain data and the origin of every node in it.

    Attributes:
        data: mappings, lists and scalars.
        origins: for the path of every mapping, list and scalar.
        inherited: arguments that were set for another `type` than the one now in force, with
            that type. A constructor that does not know them does not get them.
    """

    data: dict[Any, Any] = field(default_factory=dict)
    origins: dict[Keys, Origin] = field(default_factory=dict)
    inherited: dict[Keys, str] = field(default_factory=dict)

    def copy(self) -> Tree:
        return Tree(copy.deepcopy(self.data), dict(self.origins), dict(self.inherited))

    @property
    def top_layer(self) -> int:
        return max((origin.layer for origin in self.origins.values()), default=0)

    def merge(self, other: Tree) -> None:
        """Puts `other` on top: mappings merge, everything else is replaced."""
        _merge(self, self.data, other, other.data, ())

    def set(self, keys: Keys, value: Any, origin: Origin) -> None:
        """Sets one value; mappings on the way are created, lists are indexed.

        Raises:
            LookupError: the path runs through a scalar or past a list's end. The message says
                which.
        """
        holder: Any = self.data
        for depth, key in enumerate(keys[:-1]):
            holder = self._descend(holder, keys[: depth + 1], key, origin)
        key = keys[-1]
        if isinstance(holder, list):
            key = list_index(holder, keys)
            keys = (*keys[:-1], key)
        known: Any = find(holder, (key,)) if isinstance(holder, list) else holder.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            patch = Tree({key: value}, {(key, *k): origin for k, _ in walk(value)})
            patch.origins[(key,)] = origin
            _merge(self, known, patch, value, keys, inside=(key,))
            return
        if key == "type" and isinstance(holder, dict) and known not in (None, value):
            for sibling in holder:
                path = (*keys[:-1], sibling)
                if sibling != "type" and self.origins.get(path, Origin()).layer < origin.layer:
                    self.inherited[path] = str(known)
        self.forget(keys)
        holder[key] = copy.deepcopy(value)
        self.origins[keys] = origin
        self.origins.update({(*keys, *k): origin for k, _ in walk(value)})

    def remove(self, keys: Keys) -> None:
        """Removes the value at `keys` if there is one."""
        holder: Any = self.data
        for key in keys[:-1]:
            holder = holder[key]
        if isinstance(holder, dict):
            holder.pop(keys[-1], None)
        self.forget(keys)

    def forget(self, keys: Keys) -> None:
        """Drops what is remembered about `keys` and everything below."""
        for table in (self.origins, self.inherited):
            for known in [k for k in table if k[: len(keys)] == keys]:
                del table[known]

    def _descend(self, holder: Any, keys: Keys, key: Hashable, origin: Origin) -> Any:
        """The mapping or list at `key` of `holder`; a mapping is made where there is nothing."""
        if isinstance(holder, list):
            child = holder[list_index(holder, keys)]
        else:
            child = holder.get(key)
            if child is None:
                holder[key] = child = {}
                self.forget(keys)
                self.origins[keys] = origin
        if isinstance(child, (dict, list)):
            return child
        is_section = isinstance(child, str) and child in self.data
        raise LookupError(
            f"`{dotted(keys)}` is the name of a section; set `{child}.…` instead"
            if is_section
            else f"`{dotted(keys)}` is {child!r}, not a mapping"
        )


def list_index(holder: list[Any], keys: Keys) -> int:
    """The last of `keys` as an index of `holder`; raises LookupError where it is none."""
    try:
        index = int(str(keys[-1]))
        holder[index]
    except (ValueError, IndexError):
        raise LookupError(
            f"`{dotted(keys[:-1])}` is a list of {len(holder)}; `{keys[-1]}` is no index of it"
        ) from None
    return index % len(holder)


def dotted(keys: Keys) -> str:
    """("a", "b", 0) -> "a.b.0"."""
    return ".".join(str(key) for key in keys)


def walk(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every node below `value` with its path, parents first; not `value` itself."""
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield (*keys, key), item
        yield from walk(item, (*keys, key))


def find(data: Any, keys: Keys) -> Any:
    """The value at `keys`. Raises KeyError where there is none."""
    for key in keys:
        if isinstance(data, dict) and key in data:
            data = data[key]
        elif isinstance(data, dict) and str(key).isdigit() and int(str(key)) in data:
            data = data[int(str(key))]
        elif isinstance(data, list) and str(key).lstrip("-").isdigit():
            index = int(str(key))
            if not -len(data) <= index < len(data):
                raise KeyError(key)
            data = data[index]
        else:
            raise KeyError(key)
    return data


def _merge(
    tree: Tree,
    target: dict[Any, Any],
    other: Tree,
    source: dict[Any, Any],
    keys: Keys,
    inside: Keys | None = None,
) -> None:
    """Merges `source` (at `inside` of `other`) into `target` (at `keys` of `tree`)."""
    inside = keys if inside is None else inside
    if "type" in target and "type" in source and target["type"] != source["type"]:
        siblings = [(*keys, key) for key in target if key != "type"]
        tree.inherited.update(dict.fromkeys(siblings, str(target["type"])))
    for key, value in source.items():
        here, there = (*keys, key), (*inside, key)
        tree.inherited.pop(here, None)
        known = target.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            if there in other.origins:
                tree.origins[here] = other.origins[there]
            _merge(tree, known, other, value, here, there)
            continue
        tree.forget(here)
        target[key] = copy.deepcopy(value)
        for below in ((), *(k for k, _ in walk(value))):
            origin = other.origins.get((*there, *below))
            if origin is not None:
                tree.origins.update({(*here, *below): origin})
