"""YOLO as documents: polygons become boxes and are kept as `segmentation`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detrkit.convert.document import CocoDocument, DocumentBuilder, tidy
from detrkit.convert.headers import Progress, read_headers, report_unreadable
from detrkit.convert.placement import relative_name
from detrkit.data.faults import FaultReport
from detrkit.data.files import Folders
from detrkit.data.yolo import YoloLayout, YoloObject, parse_line, read_labels
from detrkit.errors import DataError


def read_documents(layout: YoloLayout, progress: Progress | None = None) -> dict[str, CocoDocument]:
    """The splits of a YOLO data set. Category ids are the classes of its label files, image ids
    count all images up from 1.

    Args:
        layout: where its files are.
        progress: called with the number of images looked at, and of all in a split.

    Raises:
        DataError: a list of images cannot be read.
    """
    classes = layout.categories()
    categories = [
        {"id": category, "name": name}
        for category, name in zip(classes.category_ids, classes.names, strict=True)
    ]
    labels = {int(category): label for category, label in classes.index_of_id.items()}
    root = layout.source if layout.source.is_dir() else layout.source.parent
    documents: dict[str, CocoDocument] = {}
    numbers: dict[Path, int] = {}
    for split in layout.splits:
        builder = DocumentBuilder(
            str(layout.source), categories, FaultReport.merge([layout.faults])
        )
        folders = Folders()
        found = list(
            read_labels(layout.image_files(split, folders), layout.source, folders, builder.faults)
        )
        headers = read_headers([image.path for image in found], progress)
        for image, header in zip(found, headers, strict=True):
            where = f"image {image.image_id}"
            if isinstance(header, DataError):
                report_unreadable(image.path, header, where, len(image.lines), builder.faults)
                continue
            h, w = size = header.shown_size
            name = relative_name(image.path, root)
            image_id = numbers.setdefault(image.path, len(numbers) + 1)
            builder.add_image(
                image.path, {"id": image_id, "file_name": name, "height": h, "width": w}
            )
            for where, line in image.lines:
                parsed = parse_line(line, image.labels, where, labels, builder.faults)
                if parsed is not None:
                    corners = [
                        v * side for v, side in zip(parsed.box_xyxy, (w, h) * 2, strict=True)
                    ]
                    entry = _entry(parsed, size)
                    builder.add_annotation(
                        corners, parsed.label, entry, file=image.labels, where=where
                    )
        documents[split] = builder.build()
    return documents


def _entry(found: YoloObject, size: tuple[int, int]) -> dict[str, Any]:
    if not found.is_polygon:
        return {}
    h, w = size
    sides = (w, h) * (len(found.values) // 2)
    corners = [tidy(v * side) for v, side in zip(found.values, sides, strict=True)]
    return {"area": found.area * w * h, "segmentation": [corners]}
