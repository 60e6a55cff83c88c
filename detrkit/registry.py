"""The one registry of components: backbones, layers, losses, transforms, data sets, optimizers.

A component is a class (or function) under a name. Its constructor is its schema: the
configuration is checked against the signature and nobody writes it twice.

    @MODULES.register(inject=("backbone", "encoder", "decoder"))
    class DFINE(nn.Module): ...

`inject` names arguments that are components themselves; the configuration gives the name of a
section or a mapping with `type`. `share` names arguments that are filled from top-level keys of
the configuration (`num_classes`) where there is one; as in the authors' code it wins over the
section's own value, so that one `num_classes` reaches every part. `parts` names arguments that
hold modules of maps, which the component builds itself once it knows their widths
(`detrkit.modules.part`).

Components are found in this order: detrkit's own packages, imported on the first lookup;
installed packages, through the entry point group `detrkit.plugins`; the user's files, through
`plugins:` in the configuration or `--plugin`. This module imports no torch.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from detrkit.errors import ConfigError, did_you_mean

T = TypeVar("T", bound=Callable[..., Any])

#: Packages whose import registers components. Named as text: nothing is imported before a lookup.
PACKAGES = (
    "detrkit.modules",
    "detrkit.models",
    "detrkit.losses",
    "detrkit.distillation",
    "detrkit.data",
    "detrkit.engine.components",
)


@dataclass(frozen=True)
class Traits:
    """What a module of maps does with its input; for tests, `detrkit info` and the catalogue.

    A plain module takes a map (B, C, H, W) of any size and keeps H and W.

    Attributes:
        scale: side of the output relative to the first input: 2 doubles, 0.5 halves. One for each
            output of a module that returns a list.
        sides: of each input relative to the first, where there are several: (1, 0.5).
        multiple: H and W must be multiples of it; others raise ValueError.
        smallest: least H and W.
        onnx: why it cannot be exported to ONNX; empty: it can.
        float32: what it computes in float32 whatever autocast says, and why; empty: nothing.
    """

    scale: float | tuple[float, ...] = 1.0
    sides: tuple[float, ...] = (1.0,)
    multiple: int = 1
    smallest: int = 1
    onnx: str = ""
    float32: str = ""


@dataclass(frozen=True)
class Entry:
    """A registered component.

    Attributes:
        name: how the configuration calls it.
        factory: the class or function.
        family: what it is: "backbone", "attention", "loss", "transform", …
        inject: arguments that are components.
        share: arguments filled from top-level keys of the configuration.
        parts: arguments that hold modules of maps, alone, in a list or in a mapping.
        paper: citation, e.g. "arXiv:1807.06521".
        venue: where it was published, e.g. "ECCV 2018".
        example: constructor arguments for tests, `detrkit info NAME` and the catalogue.
        traits: of a module of maps; None: it is something else.
        where: file:line of the definition.
    """

    name: str
    factory: Callable[..., Any]
    family: str
    inject: tuple[str, ...] = ()
    share: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    paper: str | None = None
    venue: str | None = None
    example: Mapping[str, Any] | None = None
    traits: Traits | None = None
    where: str = ""

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The constructor's arguments, without `self`."""
        return dict(inspect.signature(self.factory).parameters)

    @property
    def accepts_any(self) -> bool:
        """Whether the constructor takes `**kwargs`, so that argument names cannot be checked."""
        return any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())


@dataclass
class Registry:
    """Names to components. `packages` are imported when a name is first looked up."""

    packages: tuple[str, ...] = ()
    _entries: dict[str, Entry] = field(default_factory=dict)
    _failures: dict[str, str] = field(default_factory=dict)
    _discovered: bool = False

    def register(
        self,
        *names: str,
        family: str | None = None,
        inject: tuple[str, ...] = (),
        share: tuple[str, ...] = (),
        parts: tuple[str, ...] = (),
        paper: str | None = None,
        venue: str | None = None,
        example: Mapping[str, Any] | None = None,
        traits: Traits | None = None,
    ) -> Callable[[T], T]:
        """Decorator that registers a class or function under `names` (default: its own name).

        Raises:
            ConfigError: a name is taken by another definition; both places are named.
        """

        def decorate(factory: T) -> T:
            for name in names or (factory.__name__,):
                self.add(
                    Entry(
                        name=name,
                        factory=factory,
                        family=family or _family_of(factory),
                        inject=inject,
                        share=share,
                        parts=parts,
                        paper=paper,
                        venue=venue,
                        example=example,
                        traits=traits,
                        where=_place_of(factory),
                    )
                )
            return factory

        return decorate

    def add(self, entry: Entry) -> None:
        """Adds an entry, e.g. for a class of another package."""
        known = self._entries.get(entry.name)
        if known is not None and known.where != entry.where:
            raise ConfigError(
                f"component `{entry.name}` is defined twice: {known.where} and {entry.where}",
                hint="give one of them another name: @MODULES.register('OtherName')",
            )
        self._entries[entry.name] = entry

    def get(self, name: str) -> Entry:
        """The entry called `name`.

        Raises:
            ConfigError: there is none; suggests a near name, and names a module that could not
                be imported when the component may live there.
        """
        self.discover()
        entry = self._entries.get(name)
        if entry is None:
            hint = "`detrkit modules` lists what is registered; `plugins:` loads your own files"
            if self._failures:
                broken = "; ".join(f"{module}: {why}" for module, why in self._failures.items())
                hint = f"some modules could not be imported: {broken}"
            raise ConfigError(
                f"unknown component `{name}`{did_you_mean(name, self._entries)}", hint=hint
            )
        return entry

    def create(self, name: str, /, **arguments: Any) -> Any:
        """Calls the component `name` with ready-made arguments."""
        return self.get(name).factory(**arguments)

    def __contains__(self, name: object) -> bool:
        self.discover()
        return name in self._entries

    def __iter__(self) -> Iterator[Entry]:
        self.discover()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def names(self) -> list[str]:
        """All names, sorted."""
        return [entry.name for entry in self]

    def discover(self) -> None:
        """Imports detrkit's own packages and installed plug-ins, once."""
        if self._discovered:
            return
        self._discovered = True  # first: the packages look names up while they are imported
        try:
            for package in self.packages:
                self._import_tree(package)
        except BaseException:
            self._discovered = False
            raise
        for point in entry_points(group="detrkit.plugins"):
            try:
                point.load()
            except Exception as error:  # fails whoever asks for what it brings, nobody else
                self._failures[f"plug-in {point.name} ({point.value})"] = f"{error}"

    def _import_tree(self, name: str) -> None:
        module = self._import(name)
        for info in pkgutil.iter_modules(getattr(module, "__path__", [])):
            self._import_tree(f"{name}.{info.name}")

    def _import(self, name: str) -> Any:
        """Imports one module; a missing optional dependency fails only that module."""
        try:
            return importlib.import_module(name)
        except ImportError as error:
            if (error.name or "").split(".")[0] == "detrkit":
                raise  # our own mistake, not a missing dependency
            self._failures[name] = f"{error}"
            return None


def load_plugin(path: str | Path) -> None:
    """Runs a user's Python file so that its components register themselves.

    Loading the same file twice does nothing.

    Raises:
        ConfigError: the file is missing or fails, with its own error.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ConfigError(f"plug-in not found: {file}")
    name = f"detrkit_plugin_{file.stem}_{hashlib.sha1(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ConfigError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"plug-in {file} failed: {type(error).__name__}: {error}") from error


def _place_of(factory: Callable[..., Any]) -> str:
    try:
        _, line = inspect.getsourcelines(factory)
        return f"{inspect.getsourcefile(factory)}:{line}"
    except (OSError, TypeError):
        return f"{factory.__module__}.{factory.__qualname__}"


def _family_of(factory: Callable[..., Any]) -> str:
    """`detrkit.models.backbones.hgnetv2` -> "backbone"; a plug-in's -> "plugin"."""
    parts = factory.__module__.split(".")
    if parts[0] != "detrkit":
        return "plugin"
    package = parts[2] if parts[1] in ("models", "modules") and len(parts) > 3 else parts[1]
    return {"losses": "loss", "models": "model", "modules": "module"}.get(
        package, package.removesuffix("s")
    )


#: Every component of detrkit and of its plug-ins.
MODULES = Registry(packages=PACKAGES)
