"""Step 4, check: run settings against their types, components against their constructors.

The constructor is the schema. Reported are unknown keys, sections and arguments, unknown
components, missing arguments, values of the wrong type and components that need each other.
Only what a run uses can be wrong: an inherited section that nothing names (some official files
have one) is mentioned under `-v`.
"""

from __future__ import annotations

import inspect
import logging
import typing
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from detrkit.config.schema import SLOTS, TYPES, expected
from detrkit.config.tree import Keys, dotted, find, walk
from detrkit.errors import ConfigError, Problem, did_you_mean
from detrkit.registry import MODULES, Entry, Registry

if TYPE_CHECKING:
    from detrkit.config.config import Config

logger = logging.getLogger("detrkit")

#: Top-level keys that expand to others before the check; named in suggestions.
SHORT_FORMS = ("image_size", "__include__")


def check(cfg: Config, *, registry: Registry = MODULES) -> list[Problem]:
    """Every problem of a merged configuration; an empty list if there is none."""
    return _Checker(cfg, registry).run()


def leftovers(cfg: Config, *, registry: Registry = MODULES) -> list[Keys]:
    """Arguments inherited from a section of another `type` that the type in force lacks.

    `lr_scheduler: {type: CosineAnnealingLR, T_max: 50}` over an include's
    `{type: MultiStepLR, milestones: [500]}` leaves `milestones` behind.
    """
    found = []
    for keys in cfg.inherited():
        kind = find(cfg.tree, keys[:-1]).get("type")
        if isinstance(kind, str) and kind in registry:
            entry = registry.get(kind)
            if not entry.accepts_any and keys[-1] not in entry.parameters:
                found.append(keys)
    return found


class _Checker:
    def __init__(self, cfg: Config, registry: Registry) -> None:
        self.cfg, self.registry = cfg, registry
        self.problems: list[Problem] = []
        self.open: list[str] = []
        self.used: set[str] = set()
        self.shared = {key for entry in registry for key in entry.share}

    def run(self) -> list[Problem]:
        for key, ready in SLOTS.items():
            if self.cfg.peek(key) is not None:
                self.component(self.cfg.peek(key), (key,), ready)
        for key, value in self.cfg.tree.items():
            self.top_level(key, value)
        return self.problems

    def top_level(self, key: Any, value: Any) -> None:
        if key in TYPES:
            wanted = expected(value, TYPES[key])
            if wanted is not None and value is not None:  # null keeps the default
                self.wrong((key,), f"expected {wanted.removesuffix(' or null')}, got {value!r}")
        elif key in SLOTS or key in self.shared or key in self.used:
            return
        elif key in self.registry:
            if isinstance(value, Mapping) or value is None:
                logger.debug("%s: section `%s` is not used", self.cfg.name, key)
            else:
                self.wrong((key,), f"expected the arguments of {key}, got {value!r}")
        elif isinstance(value, Mapping) and isinstance(value.get("type"), str):
            if value["type"] in self.registry:
                logger.debug("%s: section `%s` is not used", self.cfg.name, key)
            else:
                self.unknown_component(value["type"], (key, "type"))
        else:
            known = [*TYPES, *SLOTS, *SHORT_FORMS, *self.shared, *self.registry.names()]
            what = "section" if isinstance(value, Mapping) else "key"
            self.wrong((key,), f"unknown {what}{did_you_mean(str(key), known)}")

    def component(self, value: Any, keys: Keys, ready: Iterable[str] = ()) -> None:
        """A reference: a name, a mapping with `type`, or a list of them."""
        if isinstance(value, str):
            self.named(value, keys, ready)
        elif isinstance(value, Mapping):
            kind = value.get("type")
            if kind is None and self.is_replaced(keys):
                self.nested(dict(value), keys)
            elif not isinstance(kind, str):
                self.wrong(keys, "needs `type`, the name of a component")
            elif kind not in self.registry:
                self.unknown_component(kind, (*keys, "type"))
            else:
                arguments = {key: item for key, item in value.items() if key != "type"}
                self.arguments(self.registry.get(kind), arguments, keys, ready)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                self.component(item, (*keys, index))
        elif value is not None:
            self.wrong(keys, f"expected a component (its name, or `type: …`), got {value!r}")

    def named(self, name: str, keys: Keys, ready: Iterable[str]) -> None:
        section = self.cfg.peek(name)
        typed = isinstance(section, Mapping) and "type" in section
        if name in self.open:
            chain = " -> ".join([*self.open, name])
            self.wrong(keys, f"components need each other: {chain}")
            return
        if not typed and name not in self.registry:
            self.unknown_component(name, keys)
            return
        if name in self.used:
            return
        self.used.add(name)
        self.open.append(name)
        if typed:
            self.component(section, (name,), ready)
        else:
            arguments = section if isinstance(section, Mapping) else {}
            place = (name,) if section is not None else keys
            self.arguments(self.registry.get(name), arguments, place, ready)
        self.open.pop()

    def arguments(
        self, entry: Entry, arguments: Mapping[str, Any], keys: Keys, ready: Iterable[str]
    ) -> None:
        """Arguments against the constructor's signature."""
        parameters, hints = entry.parameters, _hints(entry)
        for name, value in arguments.items():
            place = (*keys, name)
            if name not in parameters and not entry.accepts_any:
                if not self.cfg.is_inherited(place):
                    of = "" if keys == (entry.name,) else f" of {entry.name}"
                    near = did_you_mean(str(name), parameters)
                    self.wrong(place, f"unknown argument{of}{near}")
                continue
            if name in entry.inject:
                self.component(value, place)
                continue
            if name in entry.parts:
                self.part(value, place)
                continue
            wanted = expected(value, hints.get(name, Any))
            if wanted is not None and not _is_default(value, parameters.get(name)):
                self.wrong(place, f"expected {wanted}, got {value!r}")
            self.nested(value, place)
        self.shares(entry, arguments, keys)
        given = {
            *arguments,
            *ready,
            *(key for key in entry.share if self.cfg.peek(key) is not None),
        }
        missing = [n for n, p in parameters.items() if _is_required(p) and n not in given]
        if missing and not self.is_replaced(keys):
            names = ", ".join(f"`{name}`" for name in missing)
            self.wrong(keys, f"{entry.name} needs {names}")

    def part(self, value: Any, keys: Keys) -> None:
        """Modules of maps, alone, in a list or in a mapping; widths come from their owner."""
        if isinstance(value, str):
            self.module(value, {}, keys)
        elif isinstance(value, Mapping) and "type" in value:
            kind = value["type"]
            arguments = {key: item for key, item in value.items() if key != "type"}
            self.module(kind, arguments, keys) if isinstance(kind, str) else self.wrong(
                keys, f"expected the name of a module as `type`, got {kind!r}"
            )
        elif isinstance(value, Mapping):
            for key, item in value.items():
                self.part(item, (*keys, key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                self.part(item, (*keys, index))
        elif value is not None:
            self.wrong(keys, f"expected a module (its name, or `type: …`), got {value!r}")

    def module(self, name: str, arguments: Mapping[str, Any], keys: Keys) -> None:
        """One module of maps."""
        if name not in self.registry:
            self.unknown_component(name, keys)
            return
        entry = self.registry.get(name)
        if entry.traits is None:
            self.wrong(keys, f"{name} is no module of maps; `detrkit modules` lists those")
            return
        self.arguments(entry, arguments, keys, ("in_channels", "out_channels"))

    def is_replaced(self, keys: Keys) -> bool:
        """Whether `data:` takes the place of this data set, so that its paths need not be there."""
        in_loader = keys[0] in ("train_dataloader", "val_dataloader") and "dataset" in keys
        return in_loader and bool(self.cfg.peek("data"))

    def shares(self, entry: Entry, arguments: Mapping[str, Any], keys: Keys) -> None:
        """A shared key wins over the section's own value; says so where they differ."""
        for key in entry.share:
            shared = self.cfg.peek(key)
            if key in arguments and shared is not None and shared != arguments[key]:
                logger.warning(
                    "%s: %s is %r, but the top-level `%s` (%s) is %r and wins",
                    self.cfg.origin_of((*keys, key)),
                    dotted((*keys, key)),
                    arguments[key],
                    key,
                    self.cfg.origin_of((key,)),
                    shared,
                )

    def nested(self, value: Any, keys: Keys) -> None:
        """Components inside an argument that the constructor builds itself (`Compose.ops`)."""
        if isinstance(value, Mapping) and isinstance(value.get("type"), str):
            if value["type"] in self.registry:
                self.component(value, keys)
            return
        if isinstance(value, list):
            kinds = [item.get("type") for item in value if isinstance(item, Mapping)]
            if any(isinstance(kind, str) and kind in self.registry for kind in kinds):
                for index, item in enumerate(value):
                    if isinstance(item, Mapping):
                        self.component(item, (*keys, index))
                return
        if isinstance(value, (Mapping, list)):
            for path, item in walk(value):
                if len(path) == 1:
                    self.nested(item, (*keys, *path))

    def unknown_component(self, name: str, keys: Keys) -> None:
        self.used.add(name)  # said once; its section is not a second mistake
        try:
            self.registry.get(name)
        except ConfigError as error:
            message = error.message
            if error.hint and error.hint.startswith("some modules"):
                message += f" ({error.hint})"
            self.wrong(keys, message)

    def wrong(self, keys: Keys, message: str) -> None:
        shown = keys[:-1] if keys[-1] == "type" else keys
        origin = self.cfg.origin_of(keys)
        self.problems.append(Problem(str(origin or ""), f"{dotted(shown)}: {message}"))


def _hints(entry: Entry) -> dict[str, Any]:
    """Annotations of the constructor; none where they cannot be evaluated."""
    factory = entry.factory
    function = factory.__init__ if inspect.isclass(factory) else factory
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}


def _is_required(parameter: inspect.Parameter) -> bool:
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in variadic


def _is_default(value: Any, parameter: inspect.Parameter | None) -> bool:
    """A default that breaks its own annotation (`x: int = None`) is no mistake of the user."""
    if parameter is None:
        return True
    return value is None and parameter.default is None
