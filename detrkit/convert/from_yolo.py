"""YOLO as documents: polygons become boxes and are kept as `segmentation`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detrkit.convert.document import CocoDocument, DocumentBuilder, tidy
from detrkit.convert.placement import relative_name
from detrkit.data.faults import FaultReport
from detrkit.data.yolo import YoloLayout, YoloObject, parse_line, read_labels


def read_documents(layout: YoloLayout) -> dict[str, CocoDocument]:
    """The splits of a YOLO data set. Category ids are the classes of its label files, image ids
    count all images up from 1.

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
        builder = DocumentBuilder(str(layout.source), categories, FaultReport(list(layout.faults)))
        for image in read_labels(layout.image_files(split), layout.source, builder.faults):
            h, w = image.size
            image_id = numbers.setdefault(image.path, len(numbers) + 1)
            name = relative_name(image.path, root)
            builder.add_image(
                image.path, {"id": image_id, "file_name": name, "height": h, "width": w}
            )
            for where, line in image.lines:
                parsed = parse_line(line, image.labels, where, labels, builder.faults)
                if parsed is not None:
                    builder.add_annotation(
                        parsed.box_xyxy(image.size),
                        parsed.label,
                        _entry(parsed, image.size),
                        file=image.labels,
                        where=where,
                    )
        documents[split] = builder.build()
    return documents


def _entry(found: YoloObject, size: tuple[int, int]) -> dict[str, Any]:
    entry: dict[str, Any] = {"area": found.area(size)}
    if found.is_polygon:
        h, w = size
        sides = (w, h) * (len(found.values) // 2)
        corners = [tidy(v * side) for v, side in zip(found.values, sides, strict=True)]
        entry["segmentation"] = [corners]
    return entry
