"""The configs that come with detrkit, by name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from detrkit.config.published import Published, published
from detrkit.errors import ConfigError, did_you_mean

#: Folders whose files are parts for `__include__`, not configs of their own.
PARTS = {"include", "base", "dataset"}

#: Families by folder, in the order of their papers.
FAMILIES = {
    "rtdetrv2": "RT-DETRv2",
    "dfine": "D-FINE",
    "deim_rtdetrv2": "DEIM on RT-DETRv2",
    "deim_dfine": "DEIM on D-FINE",
    "deimv2": "DEIMv2",
}

#: What a word of a config's name says about its size, from small to large.
SIZES = {
    "atto": "Atto", "femto": "Femto", "pico": "Pico", "n": "N", "r18vd": "R18", "s": "S",
    "r34vd": "R34", "m": "M", "r50vd": "R50", "l": "L", "r101vd": "R101", "x": "X", "h": "H",
}  # fmt: skip

#: What a word of a config's name says about its data.
DATA = {
    "coco": "COCO",
    "obj2coco": "Objects365, COCO",
    "obj365": "Objects365",
    "voc": "Pascal VOC",
    "ch": "CrowdHuman",
    "custom": "yours",
    "obj2custom": "Objects365, yours",
}


@dataclass(frozen=True)
class CatalogueEntry:
    """A config of the catalogue.

    Attributes:
        name: the file's stem, e.g. "dfine_hgnetv2_n_coco"; with the family before it where
            another family has a file of that stem: "deim_dfine/dfine_hgnetv2_n_coco".
        alias: shorter, without the backbone: "dfine_n_coco"; equal to `name` if there is none.
        path: the file.
        family: its folder, a key of `FAMILIES`; "" outside of them.
    """

    name: str
    alias: str
    path: Path
    family: str

    @property
    def summary(self) -> str:
        """The file's first comment."""
        with self.path.open(encoding="utf-8") as file:
            first = file.readline().strip()
        return first.lstrip("# ").rstrip(".") if first.startswith("#") else ""

    @property
    def words(self) -> list[str]:
        """The words of the file's stem."""
        return self.path.stem.split("_")

    @property
    def size(self) -> str:
        """As the authors call it, else by its backbone: "N", "M*", "R50-M"; "" if not said."""
        if self.published is not None:
            return self.published.size
        return "-".join(SIZES[word] for word in self.words if word in SIZES)

    @property
    def data(self) -> str:
        """What it is trained on: "COCO", "Objects365, COCO"; "" where the name does not say."""
        return next((DATA[word] for word in self.words if word in DATA), "")

    @property
    def rank(self) -> tuple[int, int, int]:
        """Position in lists: by family, data, size."""
        families, data, sizes = list(FAMILIES), list(DATA.values()), list(SIZES)
        return (
            families.index(self.family) if self.family else -1,
            data.index(self.data) if self.data else len(data),
            min((sizes.index(word) for word in self.words if word in SIZES), default=-1),
        )

    @property
    def published(self) -> Published | None:
        """The authors' numbers and weights, where there are any."""
        return published().get(self.name)

    @property
    def names(self) -> tuple[str, ...]:
        """Everything it answers to."""
        return self.name, self.alias, f"{self.family}/{self.path.stem}"


def root() -> Path:
    """Folder of the configs: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_configs"
    return packaged if packaged.is_dir() else package.parent / "configs"


def catalogue() -> list[CatalogueEntry]:
    """All configs that can be named, in the order of their paths."""
    paths = [
        path
        for path in sorted(root().rglob("*.yml"))
        if PARTS.isdisjoint(path.relative_to(root()).parts[:-1]) and path.name != "runtime.yml"
    ]
    stems = Counter(path.stem for path in paths)
    short = Counter(_without_backbone(stem) for stem in stems)
    found = []
    for path in paths:
        stem, family = path.stem, path.relative_to(root()).parts[0]
        family = family if family in FAMILIES else ""
        if stems[stem] > 1 and not stem.startswith(family):  # DEIM's own runs of the baselines
            found.append(CatalogueEntry(f"{family}/{stem}", f"{family}/{stem}", path, family))
            continue
        alias = _without_backbone(stem)
        found.append(CatalogueEntry(stem, alias if short[alias] == 1 else stem, path, family))
    return found


def resolve(path_or_name: str | Path) -> Path:
    """A file, or the file of a catalogue name.

    Raises:
        ConfigError: neither; names what is near.
    """
    path = Path(path_or_name).expanduser()
    return path if path.is_file() else find(str(path_or_name)).path


def find(name: str) -> CatalogueEntry:
    """The entry of that name or alias.

    Raises:
        ConfigError: there is none; names what is near.
    """
    entries = catalogue()
    for entry in entries:
        if name.removesuffix(".yml") in entry.names:
            return entry
    path = Path(name).expanduser()
    hint = "`detrkit models` lists the configs that come with detrkit"
    if path.is_dir():
        raise ConfigError(f"{name} is a folder, not a config", hint=hint)
    if path.suffix in (".yml", ".yaml") or len(path.parts) > 1:
        near = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(f"no such config file: {name}{did_you_mean(path.name, near)}", hint=hint)
    known = [text for entry in entries for text in (entry.alias, entry.name)]
    raise ConfigError(f"no config called `{name}`{did_you_mean(name, known)}", hint=hint)


def _without_backbone(stem: str) -> str:
    """`dfine_hgnetv2_n_coco` -> `dfine_n_coco`; RT-DETRv2's L and X are not the HGNetv2 ones."""
    if stem.startswith("rtdetrv2"):
        return stem
    return stem.replace("_hgnetv2", "").replace("_dinov3", "")
