"""CrowdHuman: one JSON object a line (.odgt), with a full, a visible and a head box per person.

    {"ID": "273271,1a", "gtboxes": [{"tag": "person", "fbox": [x, y, w, h], "vbox": …, "hbox": …,
     "extra": {"ignore": 0, …}, "head_attr": {"ignore": 0, …}}, …]}

Format: https://www.crowdhuman.org/download.html. The usual COCO form, which detectors are trained
and measured on, has the single class `person`, the full box as `bbox`, as wide as it was annotated
even where that is outside the image, and `iscrowd` 1 for what is to be ignored: `extra.ignore` and
the tag `mask` (crowds, reflections, look-alikes). The other keys of a line are kept by their names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from detrkit.convert.document import CocoDocument, DocumentBuilder
from detrkit.convert.headers import Progress, read_headers, report_unreadable
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.files import ImageFinder
from detrkit.data.splits import SPLIT_NAMES, split_of
from detrkit.data.text import read_text
from detrkit.errors import DataError


class PersonBox(str, Enum):
    """Which of a person's boxes becomes `bbox`."""

    full = "full"
    visible = "visible"
    head = "head"

    @property
    def key(self) -> str:
        """Its name in the file."""
        return {"full": "fbox", "visible": "vbox", "head": "hbox"}[self.value]

    @property
    def attributes(self) -> str:
        """Where the file says whether to ignore it."""
        return "head_attr" if self is PersonBox.head else "extra"


def find_files(path: Path) -> dict[str, Path]:
    """{split: .odgt file} at a path; empty where there is none."""
    if path.is_file():
        found = [path] if path.suffix.lower() == ".odgt" else []
    else:
        found = sorted(path.glob("*.odgt")) or sorted(path.glob("annotations/*.odgt"))
    files: dict[str, Path] = {}
    for file in found:
        files.setdefault(split_of(file.stem) or "train", file)
    return {split: files[split] for split in SPLIT_NAMES if split in files}


def read_documents(
    files: Mapping[str, Path],
    images: Path | None = None,
    *,
    box: PersonBox = PersonBox.full,
    progress: Progress | None = None,
) -> dict[str, CocoDocument]:
    """CrowdHuman's splits. Image ids count all images up from 1.

    Args:
        files: {split: .odgt file}.
        images: folder of the images; None looks around the files.
        box: which box to take.
        progress: called with the number of images looked at, and of all in a file.

    Raises:
        DataError: a file is missing, or none of its lines is an annotation.
    """
    documents: dict[str, CocoDocument] = {}
    first_id = 1
    for split, file in files.items():
        faults = FaultReport()
        lines = list(_lines(file, faults))
        if not lines:
            faults.add(FaultKind.BAD_STRUCTURE, file, "", "no line is an annotation with `ID`")
        finder = ImageFinder([images] if images else _image_folders(file))
        paths = [Path(finder.find(f"{line['ID']}.jpg")[0]) for _, line in lines]
        builder = DocumentBuilder(str(file), [{"id": 1, "name": "person"}], faults)
        for number, (header, (where, line), path) in enumerate(
            zip(read_headers(paths, progress), lines, paths, strict=True), start=first_id
        ):
            if isinstance(header, DataError):
                report_unreadable(path, header, where, len(line["gtboxes"]), faults)
                continue
            h, w = header.size  # annotated on the stored pixels
            entry = {k: v for k, v in line.items() if k != "gtboxes"}
            entry |= {"id": number, "file_name": path.name, "height": h, "width": w}
            builder.add_image(path, entry)
            for position, item in enumerate(line["gtboxes"], start=1):
                _add_box(builder, box, item, file, f"{where}, box {position}")
        first_id += len(lines)
        documents[split] = builder.build()
    return documents


def _lines(file: Path, faults: FaultReport) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pairs of place and content of the usable lines, each image once."""
    if not file.is_file():
        faults.add(FaultKind.MISSING_FILE, file)
    seen: set[str] = set()
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        where = f"line {number}"
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.add(FaultKind.WRONG_TYPE, file, where, f"not JSON: {error}")
            continue
        if (
            not isinstance(content, dict)
            or not isinstance(content.get("ID"), str)
            or not isinstance(content.get("gtboxes"), list)
        ):
            faults.add(FaultKind.WRONG_TYPE, file, where, "needs `ID` and `gtboxes`")
            continue
        if content["ID"] in seen:
            faults.add(FaultKind.DUPLICATE_IMAGE_ID, file, where, content["ID"])
            continue
        seen.add(content["ID"])
        yield where, content


def _add_box(
    builder: DocumentBuilder, box: PersonBox, item: object, file: Path, where: str
) -> None:
    if not isinstance(item, Mapping) or box.key not in item:
        builder.faults.add(FaultKind.UNKNOWN_KEY, file, where, f"key `{box.key}` is missing")
        return
    values = item[box.key]
    numbers = isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in values
    )
    if not numbers or len(values) != 4:
        builder.faults.add(FaultKind.WRONG_TYPE, file, where, f"`{box.key}` is {values!r}")
        return
    x, y, w, h = values
    attributes = item.get(box.attributes)
    ignored = isinstance(attributes, Mapping) and attributes.get("ignore") == 1
    entry = dict(item) | {"iscrowd": int(ignored or item.get("tag") == "mask")}
    builder.add_annotation((x, y, x + w, y + h), 0, entry, file=file, where=where)


def _image_folders(file: Path) -> list[Path]:
    """Where people unpack the archives: `Images`, `CrowdHuman_train01/Images`, …"""
    here = file.resolve().parent
    roots = [here, here.parent] if here.name.lower().startswith("annotation") else [here]
    folders = []
    for root in roots:
        folders += [root / "Images", root / "images", root]
        inner = sorted(f for f in root.iterdir() if f.is_dir())
        folders += [f / "Images" for f in inner] + [f / "images" for f in inner] + inner
    return folders
