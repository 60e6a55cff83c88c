"""The configs that come with detrkit, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detrkit.errors import ConfigError, did_you_mean

#: Folders whose files are parts for `__include__`, not configs of their own.
PARTS = {"include", "base", "dataset"}


@dataclass(frozen=True)
class CatalogueEntry:
    """A config of the catalogue.

    Attributes:
        name: the file's stem, e.g. "dfine_hgnetv2_n_coco".
        alias: shorter, without the backbone: "dfine_n_coco"; equal to `name` if there is none.
        path: the file.
        summary: the file's first comment.
    """

    name: str
    alias: str
    path: Path
    summary: str


def root() -> Path:
    """Folder of the configs: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_configs"
    return packaged if packaged.is_dir() else package.parent / "configs"


def catalogue() -> list[CatalogueEntry]:
    """All configs that can be named, in the order of their paths."""
    found = []
    for path in sorted(root().rglob("*.yml")):
        if PARTS.isdisjoint(path.relative_to(root()).parts[:-1]) and path.name != "runtime.yml":
            alias = path.stem.replace("_hgnetv2", "")
            found.append(CatalogueEntry(path.stem, alias, path, _summary(path)))
    return found


def resolve(path_or_name: str | Path) -> Path:
    """A file, or the file of a catalogue name.

    Raises:
        ConfigError: neither; names what is near.
    """
    path = Path(path_or_name).expanduser()
    if path.is_file():
        return path
    name = str(path_or_name)
    entries = catalogue()
    for entry in entries:
        if name in (entry.name, f"{entry.name}.yml"):
            return entry.path
    for entry in entries:
        if name == entry.alias:
            return entry.path
    hint = "`detrkit models` lists the configs that come with detrkit"
    if path.is_dir():
        raise ConfigError(f"{name} is a folder, not a config", hint=hint)
    if path.suffix in (".yml", ".yaml") or len(path.parts) > 1:
        near = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(f"no such config file: {name}{did_you_mean(path.name, near)}", hint=hint)
    known = [text for entry in entries for text in (entry.alias, entry.name)]
    raise ConfigError(f"no config called `{name}`{did_you_mean(name, known)}", hint=hint)


def _summary(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        first = file.readline().strip()
    return first.lstrip("# ").rstrip(".") if first.startswith("#") else ""
