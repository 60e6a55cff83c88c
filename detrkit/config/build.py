"""Step 5, build: sections -> objects, through the registry.

The authors' rules: a name (`model: DFINE`) builds the section of that name with the constructor's
defaults; a mapping with `type` stands for itself and does not look at the section of that type;
arguments in `inject` are built first; arguments in `share` take the top-level key where there is
one, which also wins over the section's own value, so that one `num_classes` reaches every part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detrkit.config.config import Config
from detrkit.config.tree import Keys, dotted
from detrkit.errors import ConfigError, DetrkitError
from detrkit.registry import MODULES, Entry, Registry


def build(cfg: Config, key: str, *, registry: Registry = MODULES, **ready: Any) -> Any:
    """Builds what the top-level `key` names or holds: "model", "optimizer", "HGNetv2".

    Args:
        cfg: not changed.
        key: a slot (`model: DFINE`, `optimizer: {type: AdamW, …}`) or a component's name.
        registry: where components are looked up.
        ready: arguments that exist already, e.g. `params=` of an optimizer; they win.

    Raises:
        ConfigError: nothing is called `key`, or a component cannot be built; says where it
            is configured.
    """
    builder = _Builder(cfg, registry)
    value = cfg.peek(key)
    if isinstance(value, str) and key not in registry:
        return builder.named(value, (key,), ready)
    if isinstance(value, Mapping) and "type" in value:
        return builder.typed(value, (key,), ready)
    if key in registry:
        return builder.named(key, (key,), ready)
    if value is None:
        raise ConfigError(
            f"{cfg.name} has no `{key}`",
            hint=f"set it: `{key}: {{type: …}}`; `detrkit modules` lists the types",
        )
    raise ConfigError(f"{_place(cfg, (key,))}: `{key}` names no component: it has no `type`")


def build_component(
    cfg: Config,
    component: str | Mapping[str, Any],
    *,
    registry: Registry = MODULES,
    **ready: Any,
) -> Any:
    """Builds a component by name (with its section) or from a mapping with `type`."""
    builder = _Builder(cfg, registry)
    if isinstance(component, str):
        return builder.named(component, (component,), ready)
    return builder.typed(component, (), ready)


class _Builder:
    def __init__(self, cfg: Config, registry: Registry) -> None:
        self.cfg, self.registry = cfg, registry
        self.open: list[str] = []

    def named(self, name: str, place: Keys, ready: Mapping[str, Any]) -> Any:
        """A section, or a registered name without one."""
        section = self.cfg.peek(name)
        if name in self.open:
            raise ConfigError(
                f"{_place(self.cfg, place)}: components need each other: "
                + " -> ".join([*self.open, name])
            )
        self.open.append(name)
        try:
            if isinstance(section, Mapping) and "type" in section:
                return self.typed(section, (name,), ready)
            entry = self.entry(name, place)
            arguments = section if isinstance(section, Mapping) else {}
            return self.create(entry, arguments, (name,) if arguments else place, ready)
        finally:
            self.open.pop()

    def typed(self, component: Mapping[str, Any], place: Keys, ready: Mapping[str, Any]) -> Any:
        """A mapping with `type`."""
        kind = component.get("type")
        if not isinstance(kind, str):
            raise ConfigError(f"{_place(self.cfg, place)}: `{dotted(place)}` has no `type`")
        arguments = {key: value for key, value in component.items() if key != "type"}
        return self.create(self.entry(kind, place), arguments, place, ready)

    def entry(self, name: str, place: Keys) -> Entry:
        try:
            return self.registry.get(name)
        except ConfigError as error:
            raise ConfigError(
                f"{_place(self.cfg, place)}: {error.message}", hint=error.hint
            ) from None

    def create(
        self, entry: Entry, arguments: Mapping[str, Any], place: Keys, ready: Mapping[str, Any]
    ) -> Any:
        values = self.cfg.arguments(entry, arguments, place)
        for name in entry.inject:
            if name in values and name not in ready:
                values[name] = self.injected(values[name], (*place, name))
        values.update(ready)
        try:
            return entry.factory(**values)
        except DetrkitError:
            raise
        except (TypeError, ValueError, KeyError, AssertionError) as error:
            raise ConfigError(
                f"{_place(self.cfg, place)}: `{entry.name}` cannot be built: "
                f"{type(error).__name__}: {error}",
                hint="`--debug` shows where in the code",
            ) from error

    def injected(self, value: Any, place: Keys) -> Any:
        if isinstance(value, str):
            return self.named(value, place, {})
        if isinstance(value, Mapping):
            return self.typed(value, place, {})
        if isinstance(value, list):
            return [self.injected(item, (*place, index)) for index, item in enumerate(value)]
        return value


def _place(cfg: Config, keys: Keys) -> str:
    origin = cfg.origin_of(keys)
    return str(origin) if origin is not None and str(origin) else cfg.name
