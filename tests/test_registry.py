"""The registry and its three sources: packages, installed plug-ins, the user's files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import detrkit.registry
from detrkit.config import build, load_config
from detrkit.errors import ConfigError
from detrkit.registry import MODULES, Entry, Registry, load_plugin


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable package `parts_for_tests` with a registry of its own; unloaded afterwards."""
    folder = tmp_path / "parts_for_tests"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from detrkit.registry import Registry\nPARTS = Registry(packages=(__name__,))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [n for n in sys.modules if n.split(".")[0] == "parts_for_tests"]:
        del sys.modules[name]


@pytest.fixture
def modules() -> Iterator[Registry]:
    """The real registry, restored afterwards."""
    MODULES.discover()
    before = dict(MODULES._entries)
    yield MODULES
    MODULES._entries.clear()
    MODULES._entries.update(before)
    for name in [n for n in sys.modules if n.startswith("detrkit_plugin_")]:
        del sys.modules[name]


PLUGIN = """\
from detrkit.registry import MODULES

@MODULES.register()
class {name}:
    def __init__(self, side: int = 3) -> None:
        self.side = side
"""


def test_register_get_create() -> None:
    registry = Registry()

    @registry.register("A", "B", family="attention", share=("x",), inject=("y",), paper="p")
    class Part:
        def __init__(self, x: int, y: object = None, **rest: int) -> None:
            self.x = x

    entry = registry.get("B")
    assert entry.factory is Part
    assert (entry.family, entry.share, entry.inject, entry.paper) == (
        "attention",
        ("x",),
        ("y",),
        "p",
    )
    assert list(entry.parameters) == ["x", "y", "rest"]
    assert entry.accepts_any
    assert registry.create("A", x=3).x == 3
    assert registry.names() == ["A", "B"]
    assert "A" in registry
    assert "C" not in registry


def test_unknown_name_gets_a_suggestion() -> None:
    registry = Registry()
    registry.register("CBAM")(dict)
    with pytest.raises(ConfigError, match="unknown component `CBAN`, did you mean `CBAM`"):
        registry.get("CBAN")


def test_name_taken_names_both_places() -> None:
    registry = Registry()

    @registry.register("Twice")
    class First: ...

    with pytest.raises(ConfigError) as caught:

        @registry.register("Twice")
        class Second: ...

    places = [word for word in caught.value.message.split() if __file__ in word]
    assert len(places) == 2
    assert places[0] != places[1]
    assert registry.get("Twice").factory is First


def test_same_definition_again_is_no_mistake() -> None:
    """A reloaded module registers the same lines once more."""
    registry = Registry()
    entry = Entry(name="A", factory=dict, family="x", where="a.py:1")
    registry.add(entry)
    registry.add(Entry(name="A", factory=dict, family="x", where="a.py:1"))
    assert registry.names() == ["A"]


def test_missing_dependency_fails_only_its_module(package: Path) -> None:
    (package / "good.py").write_text(
        "from parts_for_tests import PARTS\n@PARTS.register()\nclass Good: ...\n"
    )
    (package / "needy.py").write_text(
        "import no_such_library\nfrom parts_for_tests import PARTS\n"
        "@PARTS.register()\nclass Needy: ...\n"
    )
    from parts_for_tests import PARTS  # type: ignore[import-not-found]

    assert PARTS.names() == ["Good"]
    with pytest.raises(ConfigError) as caught:
        PARTS.get("Needy")
    assert "parts_for_tests.needy" in (caught.value.hint or "")
    assert "no_such_library" in (caught.value.hint or "")


def test_packages_wait_for_the_first_lookup(package: Path) -> None:
    (package / "part.py").write_text(
        "from parts_for_tests import PARTS\n@PARTS.register()\nclass Part: ...\n"
    )
    from parts_for_tests import PARTS

    assert "parts_for_tests.part" not in sys.modules
    assert "Part" in PARTS
    assert "parts_for_tests.part" in sys.modules


def test_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()

    def load_good() -> None:
        registry.register("FromPackage")(dict)

    def load_bad() -> None:
        raise RuntimeError("half installed")

    points = [
        SimpleNamespace(name="good", value="good_package", load=load_good),
        SimpleNamespace(name="bad", value="bad_package", load=load_bad),
    ]
    asked = []
    monkeypatch.setattr(
        detrkit.registry, "entry_points", lambda group: asked.append(group) or points
    )
    assert "FromPackage" in registry
    assert asked == ["detrkit.plugins"]
    with pytest.raises(ConfigError) as caught:
        registry.get("Other")
    assert "plug-in bad (bad_package): half installed" in (caught.value.hint or "")


def test_plugin_from_the_config_and_from_the_flag(tmp_path: Path, modules: Registry) -> None:
    (tmp_path / "one.py").write_text(PLUGIN.format(name="PluginOfTheConfig"))
    (tmp_path / "two.py").write_text(PLUGIN.format(name="PluginOfTheFlag"))
    config_file = tmp_path / "c.yml"
    config_file.write_text(
        "plugins: [./one.py]\nmodel: PluginOfTheConfig\nPluginOfTheConfig: {side: 5}\n"
        "criterion: {type: PluginOfTheFlag, side: 7}\n"
    )
    config = load_config(config_file, plugins=[tmp_path / "two.py"])
    assert build(config, "model").side == 5
    assert build(config, "criterion").side == 7
    assert modules.get("PluginOfTheFlag").family == "plugin"
    again = load_config(config_file, plugins=[tmp_path / "two.py"])
    assert build(again, "model").side == 5, "loading a plug-in twice does nothing"


def test_plugin_arguments_are_checked(tmp_path: Path, modules: Registry) -> None:
    (tmp_path / "one.py").write_text(PLUGIN.format(name="CheckedPlugin"))
    config_file = tmp_path / "c.yml"
    config_file.write_text("plugins: [one.py]\nmodel: {type: CheckedPlugin, sid: 5}\n")
    with pytest.raises(ConfigError, match=r"line 2  model\.sid: unknown argument .* `side`"):
        load_config(config_file)


def test_plugin_that_fails_names_file_and_error(tmp_path: Path, modules: Registry) -> None:
    with pytest.raises(ConfigError, match="plug-in not found"):
        load_plugin(tmp_path / "none.py")
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    for _ in range(2):  # a failed plug-in is tried again
        with pytest.raises(ConfigError, match=r"broken\.py failed: ZeroDivisionError"):
            load_plugin(broken)


def test_plugin_that_takes_a_name_names_both(tmp_path: Path, modules: Registry) -> None:
    (tmp_path / "one.py").write_text(PLUGIN.format(name="SamePluginName"))
    (tmp_path / "two.py").write_text("\n" + PLUGIN.format(name="SamePluginName"))
    load_plugin(tmp_path / "one.py")
    with pytest.raises(ConfigError, match=r"one\.py:3 and .*two\.py:4"):
        load_plugin(tmp_path / "two.py")
