"""Writing documents as Pascal VOC.

`Annotations/`, `ImageSets/Main/<split>.txt`, images in `JPEGImages/`, the classes in their order
in `labels.txt`. `attributes` of images and annotations become elements, as `from_voc` read them.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from detrkit.convert.document import CocoDocument, tidy
from detrkit.convert.headers import Progress
from detrkit.convert.output import staged
from detrkit.convert.placement import put_all
from detrkit.convert.placing import Place
from detrkit.convert.summary import SplitCounts, Summary
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.splits import SPLIT_NAMES
from detrkit.errors import UsageError

_LISTS = "ImageSets/Main"
_TAG = re.compile(r"[A-Za-z_][\w.-]*")


def write(
    documents: Mapping[str, CocoDocument],
    output: Path,
    *,
    place: Place = Place.link,
    keep_crowds: bool = False,
    force: bool = False,
    sources: list[Path] | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Writes a VOC data set. Boxes keep all their digits; ids and segments have no place in it.

    Args:
        documents: {split: document}; images of several splits are written once.
        output: a folder.
        place: how the images get there.
        keep_crowds: write crowd regions as ordinary objects; otherwise they are left out.
        force: replace a former result.
        sources: annotation files that are being read.
        progress: called with the number of images brought and of all.

    Raises:
        UsageError: there is a result already, or the images are to stay where they are.
        DetrkitError: it cannot be written.
    """
    if place is Place.refer:
        raise UsageError("VOC wants its images in one folder: --place link, symlink or copy")
    reads = [*(sources or []), *(f for d in documents.values() for f in d.files)]
    lists = [f"{_LISTS}/{split}.txt" for split in (*SPLIT_NAMES, "trainval")]
    counts: dict[str, SplitCounts] = {}
    faults: list[FaultReport] = []
    parts = ["JPEGImages", "Annotations", "labels.txt", *lists]
    with staged(output, parts, force=force, sources=reads) as stage:
        (stage / "Annotations").mkdir()
        (stage / _LISTS).mkdir(parents=True)
        known: dict[Path, str] = {}
        for split, document in documents.items():
            if not keep_crowds:
                document = without_crowds(document)
            document, names = put_all(
                document,
                stage / "JPEGImages",
                place,
                flat=True,
                by_stem=True,
                known=known,
                progress=progress,
            )
            stems = []
            for row, annotations in document.by_image():
                tree = _annotation(document, row, names[row], annotations)
                stem = names[row].rpartition(".")[0] or names[row]
                tree.write(stage / "Annotations" / f"{stem}.xml", encoding="utf-8")
                stems.append(stem)
            text = "".join(f"{stem}\n" for stem in stems)
            (stage / _LISTS / f"{split}.txt").write_text(text, encoding="utf-8", newline="\n")
            counts[split] = SplitCounts.of_document(document)
            faults.append(document.faults)
        classes = dict.fromkeys(name for d in documents.values() for name in d.names)
        text = "".join(f"{name}\n" for name in classes)
        (stage / "labels.txt").write_text(text, encoding="utf-8", newline="\n")
    return Summary(output, "VOC", counts, FaultReport.merge(faults))


def without_crowds(document: CocoDocument) -> CocoDocument:
    """Leaves out and counts crowd regions."""
    crowds = np.zeros(len(document.owners), bool)
    for place, entry in enumerate(document.entries):
        if document.owners[place] >= 0 and entry.get("iscrowd"):
            crowds[place] = True
            where = f"annotation {entry.get('id', f'number {place}')}"
            document.faults.add(FaultKind.CROWD_REGION, document.source, where)
    return document.without(crowds) if crowds.any() else document


def _annotation(
    document: CocoDocument, row: int, name: str, annotations: list[dict[str, Any]]
) -> ElementTree.ElementTree:
    image = document.images[row]
    attributes = _attributes(image)
    depth, segmented = attributes.pop("depth", 3), attributes.pop("segmented", 0)
    size = {"width": image.get("width", 0), "height": image.get("height", 0), "depth": depth}
    root = Element("annotation")
    _add(root, {"folder": "JPEGImages"} | attributes | {"filename": name})
    _add(root, {"size": size, "segmented": segmented})
    names = {category["id"]: str(category["name"]) for category in document.categories}
    for annotation in annotations:
        item = SubElement(root, "object")
        x, y, w, h = annotation["bbox"]
        box = {"xmin": x, "ymin": y, "xmax": tidy(x + w), "ymax": tidy(y + h)}
        usual = {"pose": "Unspecified", "truncated": 0, "difficult": 0}
        _add(item, {"name": names[annotation["category_id"]]} | usual | _attributes(annotation))
        _add(item, {"bndbox": box})
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def _attributes(entry: Mapping[str, Any]) -> dict[str, Any]:
    """`attributes` whose names can be tags."""
    attributes = entry.get("attributes")
    if not isinstance(attributes, Mapping):
        return {}
    return {key: value for key, value in attributes.items() if _TAG.fullmatch(key)}


def _add(parent: Element, content: Mapping[str, Any]) -> None:
    """Mappings, lists and values as elements."""
    for tag, value in content.items():
        for item in value if isinstance(value, list) else [value]:
            child = SubElement(parent, tag)
            if isinstance(item, Mapping):
                _add(child, item)
            elif item is not None:
                child.text = str(item)
