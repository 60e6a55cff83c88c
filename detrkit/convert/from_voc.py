"""Pascal VOC as documents.

Boxes are used as written, as `detrkit.data.voc` does. What else an object says (`difficult`,
`truncated`, `pose`, anything) becomes `attributes` of the annotation, what a file says about its
image `attributes` of the image, so that VOC can be written again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from detrkit.convert.document import CocoDocument, DocumentBuilder
from detrkit.convert.headers import report_unreadable
from detrkit.data.faults import FaultReport
from detrkit.data.files import ImageFinder
from detrkit.data.images import read_header
from detrkit.data.voc import VocImage, VocLayout, annotated_size, parse_object, read_images
from detrkit.errors import DataError

_OWN_IMAGE_TAGS = ("object", "size")
_OWN_OBJECT_TAGS = ("name", "bndbox")


def read_documents(layout: VocLayout) -> dict[str, CocoDocument]:
    """The splits of a VOC data set. Image ids count all images up from 1.

    Raises:
        DataError: no annotation file names a class.
    """
    classes = layout.categories()
    categories = [{"id": i, "name": name} for i, name in enumerate(classes.names, start=1)]
    finder = ImageFinder(layout.image_folders)
    documents: dict[str, CocoDocument] = {}
    numbers: dict[Path, int] = {}
    for split in layout.splits:
        source, files = layout.annotation_files(split, finder.folders)
        builder = DocumentBuilder(str(source), categories)
        for found in read_images(files, finder, source, builder.faults):
            size = _size(found, builder.faults)
            if size is None:
                continue
            image_id = numbers.setdefault(found.file, len(numbers) + 1)
            builder.add_image(found.path, _image_entry(found, image_id, size))
            for where, item in found.objects():
                parsed = parse_object(
                    item, found.file, where, classes.index_of_name, builder.faults
                )
                if parsed is not None:
                    label, corners = parsed
                    attributes = {t: v for t, v in _children(item) if t not in _OWN_OBJECT_TAGS}
                    entry = {"attributes": attributes} if attributes else {}
                    builder.add_annotation(corners, label, entry, file=found.file, where=where)
        documents[split] = builder.build()
    return documents


def _size(found: VocImage, faults: FaultReport) -> tuple[int, int] | None:
    """(h, w) as annotated, else as the image file has it."""
    size = None if found.root is None else annotated_size(found.root)
    if size is not None and min(size) > 0:
        return size
    try:
        return read_header(found.path).shown_size
    except DataError as error:
        boxes = sum(1 for _ in found.objects())
        report_unreadable(found.path, error, f"image {found.file.stem}", boxes, faults)
        return None


def _image_entry(found: VocImage, image_id: int, size: tuple[int, int]) -> dict[str, Any]:
    h, w = size
    entry = {"id": image_id, "file_name": found.path.name, "height": h, "width": w}
    if found.root is not None:
        attributes = {tag: v for tag, v in _children(found.root) if tag not in _OWN_IMAGE_TAGS}
        depth = found.root.find("size/depth")
        if depth is not None and depth.text:
            attributes["depth"] = depth.text.strip()
        if attributes:
            entry["attributes"] = attributes
    return entry


def _children(element: Element) -> Iterator[tuple[str, Any]]:
    """Pairs of tag and content: text, a mapping, or a list of them where a tag occurs again."""
    found: dict[str, Any] = {}
    for child in element:
        value = dict(_children(child)) if len(child) else (child.text or "").strip()
        if child.tag in found:
            first = found[child.tag]
            found[child.tag] = [*(first if isinstance(first, list) else [first]), value]
        else:
            found[child.tag] = value
    return iter(found.items())
