"""The configuration object, and `load_config`, which makes it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from detrkit.config import catalogue, check, dialect, families, override, shortforms
from detrkit.config.loader import Loader, load_tree
from detrkit.config.override import Flag
from detrkit.config.schema import RunConfig, run_config
from detrkit.config.tree import Keys, Origin, Tree, find, shown_path
from detrkit.errors import ConfigError, Problem
from detrkit.registry import MODULES, Entry, Registry, load_plugin

__all__ = ["Config", "Flag", "checked", "load_config"]

logger = logging.getLogger("detrkit")


class Config:
    """A resolved configuration. Nothing changes it; what is handed out is a copy.

    Attributes:
        name: the file's stem.
        path: the file, or None.
    """

    def __init__(self, tree: Tree, *, name: str, path: Path | None = None) -> None:
        self._tree = tree
        self.name = name
        self.path = path

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], *, name: str = "config") -> Config:
        """A configuration from plain data, e.g. the one that a checkpoint carries."""
        layer = Tree()
        for key, value in tree.items():
            layer.set((key,), value, Origin(flag=name, layer=1))
        return cls(layer, name=name)

    @property
    def tree(self) -> dict[str, Any]:
        """Everything, as nested plain data: a copy."""
        return copy.deepcopy(self._tree.data)

    @property
    def run(self) -> RunConfig:
        """The run settings."""
        return run_config(self._tree.data)

    def get(self, key: str, default: Any = None) -> Any:
        """The value at a dotted key such as "optimizer.params.0.lr": a copy."""
        return copy.deepcopy(self.peek(key, default))

    def peek(self, key: str, default: Any = None) -> Any:
        """Like `get` without the copy; the caller must not change it."""
        try:
            return find(self._tree.data, _split(key))
        except KeyError:
            return default

    def __contains__(self, key: str) -> bool:
        return self.peek(key, _MISSING) is not _MISSING

    def origin(self, key: str) -> Origin:
        """What set the value at a dotted key.

        Raises:
            KeyError: there is no such value.
        """
        find(self._tree.data, _split(key))
        origin = self.origin_of(_split(key))
        return origin if origin is not None else Origin(flag=self.name)

    def origin_of(self, keys: Keys) -> Origin | None:
        """What set the value at `keys`, or the nearest mapping around it."""
        for length in range(len(keys), 0, -1):
            origin = self._origins_by_text.get(tuple(map(str, keys[:length])))
            if origin is not None:
                return origin
        return None

    @cached_property
    def _origins_by_text(self) -> dict[Keys, Origin]:
        return {tuple(map(str, keys)): origin for keys, origin in self._tree.origins.items()}

    def origins(self) -> dict[Keys, Origin]:
        """What set each value, by path."""
        return dict(self._tree.origins)

    def arguments(self, entry: Entry, section: Mapping[str, Any], place: Keys) -> dict[str, Any]:
        """The constructor arguments that `section` (at `place`) and the shared keys give."""
        known = entry.parameters
        values = {
            key: copy.deepcopy(value)
            for key, value in section.items()
            if not self.is_inherited((*place, key)) or key in known or entry.accepts_any
        }
        for key in entry.share:
            if self._tree.data.get(key) is not None:
                values[key] = copy.deepcopy(self._tree.data[key])
        return values

    def is_inherited(self, keys: Keys) -> bool:
        """Whether the value was set for another `type` than the one now in force."""
        return keys in self._tree.inherited

    def dump(self) -> str:
        """The resolved configuration as YAML; loading it gives the same configuration."""
        return yaml.dump(
            _escaped(self._tree.data), Dumper=_Dumper, sort_keys=False, allow_unicode=True
        )

    def with_updates(self, update: Sequence[str]) -> Config:
        """A copy with `["a.b=c"]` set, as `--update` does.

        Raises:
            ConfigError: an update cannot be read or set.
        """
        problems: list[Problem] = []
        assignments = override.from_updates(update, problems)
        return self._with(assignments, problems)

    def with_values(self, values: Mapping[str, Any], *, origin: str | None = None) -> Config:
        """A copy with values set by dotted key.

        Args:
            values: `{"num_classes": 3}`.
            origin: what sets them, for `show-config --origin`: "data set", "--epochs".
        """
        return self._with(override.from_mapping(values, origin), [])

    def _with(self, assignments: list[override.Assignment], problems: list[Problem]) -> Config:
        tree = self._tree.copy()
        override.apply(tree, assignments, problems)
        problems += shortforms.expand(tree)
        _raise(problems, self.name)
        return Config(tree, name=self.name, path=self.path)

    def without(self, keys: Sequence[Keys]) -> Config:
        """A copy without the values at `keys`."""
        tree = self._tree.copy()
        for path in keys:
            tree.remove(path)
        return Config(tree, name=self.name, path=self.path)

    def inherited(self) -> dict[Keys, str]:
        """Arguments set for another `type` than the one now in force, with that type."""
        return dict(self._tree.inherited)

    def __repr__(self) -> str:
        return f"Config({self.name!r}, {len(self._tree.data)} keys)"


def load_config(
    path_or_name: str | Path,
    *,
    update: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    overrides: Mapping[str, Any] | None = None,
    registry: Registry = MODULES,
    strict: bool = True,
) -> Config:
    """Loads, translates, merges and checks a configuration.

    Args:
        path_or_name: a YAML file, or a name of the catalogue ("quickstart", "dfine_n_coco").
        update: `--update` values, "a.b=c"; set last.
        plugins: Python files that register components, besides those in `plugins:`.
        overrides: values of command flags by dotted key; a `Flag` names its flag, otherwise
            it is the key's ("epochs" -> `--epochs`).
        registry: where components are looked up.
        strict: check the run settings and every component. Needs the components' packages
            (torch); False only reads.

    Raises:
        ConfigError: holds every problem found, each with its file and line or flag.
    """
    path = catalogue.resolve(path_or_name).absolute()
    problems: list[Problem] = []
    tree = load_tree(path, problems)
    _raise(problems, path)
    base, said = tree.data.get("epochs"), tree.origins.get(("epochs",))
    override.apply(tree, override.from_mapping(overrides or {}), problems)
    override.apply(tree, override.from_updates(update, problems), problems)
    if tree.origins.get(("epochs",)) != said:
        shortforms.remember_base(base, tree)
    problems += shortforms.expand(tree)
    families.complete(tree)
    config = Config(tree, name=path.stem, path=path)
    for plugin in [*(config.peek("plugins") or ()), *plugins]:
        load_plugin(plugin)
    if problems and strict:
        problems += check.check(config, registry=registry)
    _raise(problems, path)
    return checked(config, registry=registry) if strict else config


def checked(config: Config, *, registry: Registry = MODULES) -> Config:
    """The configuration without what another `type` left behind.

    Raises:
        ConfigError: it does not pass the check; holds every problem.
    """
    _raise(check.check(config, registry=registry), config.path or config.name)
    return config.without(check.leftovers(config, registry=registry))


def _raise(problems: list[Problem], source: str | Path) -> None:
    if not problems:
        return
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    name = shown_path(source) if isinstance(source, Path) else source
    seen = [
        Problem(
            p.where.replace(f"{name}:", "line ") if p.where.startswith(f"{name}:") else p.where,
            p.message,
        )
        for p in dict.fromkeys(problems)
    ]
    raise ConfigError(
        f"{count} in {name}",
        problems=seen,
        hint=f"`detrkit show-config {name} --origin` prints every value and where it was set",
    )


_MISSING = object()


def _split(key: str) -> Keys:
    return tuple(dialect.canonical(key).split("."))


class _Dumper(yaml.SafeDumper):
    """Quotes what our loader would read as a number; lists of scalars on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = {
    first: [
        *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        *Loader.yaml_implicit_resolvers.get(first, []),
    ]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *Loader.yaml_implicit_resolvers}
}


def _represent_list(dumper: yaml.SafeDumper, data: Any) -> yaml.Node:
    flow = all(not isinstance(item, (dict, list)) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(tuple, _represent_list)


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(item) for item in value]
    return value
