"""Class lists of public data sets, for weights that carry none.

The lists are files of lines `category-id name` in index order. The authors train on Objects365
with category ids as indices, so that their heads have 366 rows, the first of which means nothing.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from detrkit.structures import ClassMap

#: Name of row 0 in heads with 366 rows.
UNUSED = "(unused)"


@cache
def _read(name: str) -> ClassMap:
    text = (files("detrkit.engine") / "class_names" / f"{name}.txt").read_text(encoding="utf-8")
    pairs = [line.split(" ", 1) for line in text.splitlines() if line]
    return ClassMap(tuple(name for _, name in pairs), tuple(int(number) for number, _ in pairs))


def coco_classes() -> ClassMap:
    """COCO's 80 classes with their 1–90 category ids."""
    return _read("coco")


def objects365_classes() -> ClassMap:
    """The 365 classes of Objects365 with their 1–365 category ids."""
    return _read("objects365")


def voc_classes() -> ClassMap:
    """Pascal VOC's 20 classes, numbered from 1 in the order of their names."""
    return _read("voc")


def known_class_map(count: int) -> ClassMap | None:
    """The public class list of that length: 80 COCO, 365 and 366 Objects365; else None."""
    if count == 80:
        return coco_classes()
    if count == 365:
        return objects365_classes()
    if count == 366:
        names = objects365_classes()
        return ClassMap((UNUSED, *names.names), (0, *names.category_ids))
    return None


def known_name(count: int) -> str | None:
    """What `known_class_map` of that length is called."""
    return {80: "COCO", 365: "Objects365", 366: "Objects365"}.get(count)
