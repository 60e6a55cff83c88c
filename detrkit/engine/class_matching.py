"""Which class of one data set is which class of another.

In order of trust: a file that says so (`--class-map`), the same name, another name for the same
thing. Names are compared without regard to case, spaces, underscores, hyphens and a plural s; a
name such as `Monitor/TV` of Objects365 is one of its parts as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from detrkit.errors import WeightsError, did_you_mean
from detrkit.structures import ClassMap

#: Names for one thing in COCO, Objects365, Pascal VOC and everyday data sets; nothing wider. The
#: wider ones (skis and skating shoes) are those that the authors use from Objects365 to COCO.
SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("person", "people", "human", "pedestrian"),
    ("bicycle", "bike", "cycle"),
    ("motorcycle", "motorbike"),
    ("airplane", "aeroplane", "plane", "aircraft"),
    ("bird", "wild bird"),
    ("cell phone", "mobile phone", "cellphone", "smartphone"),
    ("couch", "sofa"),
    ("dining table", "diningtable", "dinning table"),
    ("potted plant", "pottedplant"),
    ("tv", "television", "tv monitor", "monitor", "moniter"),
    ("suitcase", "luggage"),
    ("skis", "skating and skiing shoes"),
    ("sports ball", "baseball"),
    ("teddy bear", "stuffed toy"),
    ("hair drier", "hair dryer"),
    ("donut", "doughnut"),
    ("refrigerator", "fridge"),
    ("traffic light", "traffic signal"),
    ("truck", "lorry"),
    ("remote", "remote control"),
    ("cow", "cattle"),
)


def plain(name: str) -> str:
    """A name reduced to what counts: "Fire_Hydrant" -> "firehydrant"."""
    return re.sub(r"[\s_\-]+", "", name).casefold()


_GROUP = {plain(name): number for number, group in enumerate(SYNONYMS) for name in group}


def match_classes(
    mine: ClassMap, theirs: ClassMap, explicit: Mapping[str, str | int | None] | None = None
) -> dict[int, int]:
    """Index in `mine` -> index in `theirs` of the same class; classes without one are missing.

    Args:
        mine, theirs: the class lists.
        explicit: name in `mine` -> name or index in `theirs`, or None for "like no other"; wins.

    Raises:
        WeightsError: `explicit` names a class that is not there.
    """
    given = _explicit_pairs(mine, theirs, explicit or {})
    exact: dict[str, int] = {}
    parts: dict[str, int] = {}
    groups: dict[int, int] = {}
    for index, name in reversed(list(enumerate(theirs.names))):
        exact[plain(name)] = index
        for part in name.split("/") if "/" in name else ():
            parts[plain(part)] = index
        for word in {plain(name), *(plain(part) for part in name.split("/"))}:
            if word in _GROUP:
                groups[_GROUP[word]] = index
    found = {}
    for index, name in enumerate(mine.names):
        chosen = given[index] if index in given else _find(name, exact, parts, groups)
        if chosen is not None:
            found[index] = chosen
    return found


def _find(
    name: str, exact: Mapping[str, int], parts: Mapping[str, int], groups: Mapping[int, int]
) -> int | None:
    words = [plain(name), *(plain(part) for part in name.split("/") if "/" in name)]
    for table in (exact, parts):
        for word in words:
            for candidate in (word, word.removesuffix("s"), word + "s"):
                if candidate in table:
                    return table[candidate]
    for word in words:
        for candidate in (word, word.removesuffix("s")):
            if _GROUP.get(candidate) in groups:
                return groups[_GROUP[candidate]]
    return None


def _explicit_pairs(
    mine: ClassMap, theirs: ClassMap, explicit: Mapping[str, str | int | None]
) -> dict[int, int | None]:
    known = {plain(name): index for index, name in enumerate(theirs.names)}
    own = {plain(name): index for index, name in enumerate(mine.names)}
    pairs: dict[int, int | None] = {}
    for name, target in explicit.items():
        if plain(str(name)) not in own:
            raise WeightsError(
                f"class map: the data has no class `{name}`{did_you_mean(str(name), mine.names)}"
            )
        if target is None:
            pairs[own[plain(str(name))]] = None
            continue
        index = target if isinstance(target, int) else known.get(plain(target))
        if index is None or not 0 <= index < len(theirs):
            raise WeightsError(
                f"class map: the weights have no class `{target}`"
                f"{did_you_mean(str(target), theirs.names)}",
                hint="`detrkit weights inspect FILE` lists their classes",
            )
        pairs[own[plain(str(name))]] = index
    return pairs


def read_class_map(path: str | Path) -> dict[str, str | int | None]:
    """A file of lines `my class: their class` (YAML or JSON).

    The right side is a name, an index (counted from 0), or null: start that class from random.

    Raises:
        WeightsError: missing, or something else.
    """
    file = Path(path).expanduser()
    hint = "one line for each class, `my class: their class`"
    try:
        content: Any = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise WeightsError(f"class map not found: {file}", hint=hint) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"class map {file} cannot be read: {reason}", hint=hint) from error
    if not isinstance(content, dict) or not all(
        value is None or (isinstance(value, str | int) and not isinstance(value, bool))
        for value in content.values()
    ):
        raise WeightsError(f"class map {file} is no list of pairs", hint=hint)
    return {str(key): value for key, value in content.items()}
