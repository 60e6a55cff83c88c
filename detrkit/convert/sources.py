"""From a path to documents: any data set that detrkit reads, and CrowdHuman."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from detrkit.convert import crowdhuman, from_coco, from_voc, from_yolo
from detrkit.convert.document import LEFT_OUT, CocoDocument
from detrkit.convert.headers import Progress
from detrkit.data.classes import merge_categories
from detrkit.data.detect import CocoLayout, find_layout
from detrkit.data.voc import VocLayout
from detrkit.data.yolo import YoloLayout
from detrkit.errors import DataError


def open_documents(
    path: Path,
    images: Path | None = None,
    *,
    splits: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> dict[str, CocoDocument]:
    """The splits of a data set; all of them have the same categories.

    Args:
        path: a COCO JSON file, data.yaml, .odgt file, or the folder of a data set.
        images: folder of the images; None looks in the usual places. YOLO knows its own.
        splits: which list or file to use for a split, e.g. {"train": "trainval", "val": "test"}.
        progress: called with images done and all of them, where they have to be opened.

    Raises:
        DataError: nothing known lies there, or it cannot be read.
    """
    odgt = crowdhuman.find_files(path)
    if odgt:
        return crowdhuman.read_documents(odgt, images, progress=progress)
    layout = find_layout(path, splits)
    if isinstance(layout, CocoLayout):
        documents = {
            split: from_coco.read_document(file, images) for split, file in layout.files.items()
        }
        return with_common_categories(documents)
    if isinstance(layout, VocLayout):
        if images is not None:
            layout = replace(layout, image_folders=[images])
        return from_voc.read_documents(layout)
    if isinstance(layout, YoloLayout):
        return from_yolo.read_documents(layout, progress)
    raise DataError(f"{path}: a data set of this kind cannot be converted")


def with_common_categories(documents: Mapping[str, CocoDocument]) -> dict[str, CocoDocument]:
    """Documents of one data set, each with the categories of all, sorted by id.

    Raises:
        DataError: two of them give one id to different classes.
    """
    pairs = [
        (d.source, {c["id"]: str(c["name"]) for c in d.categories}) for d in documents.values()
    ]
    order = merge_categories(pairs).category_ids
    entries = {c["id"]: c for d in reversed(list(documents.values())) for c in d.categories}
    categories = [entries[category] for category in order]
    row_of = {category: row for row, category in enumerate(order)}
    return {
        split: relabelled(
            document, categories, [row_of[category["id"]] for category in document.categories]
        )
        for split, document in documents.items()
    }


def relabelled(document: CocoDocument, categories: list[dict], labels: list[int]) -> CocoDocument:
    """The document with other categories; `labels[old]` is the new label, or LEFT_OUT."""
    moved = np.asarray([*labels, LEFT_OUT], np.int32)[document.labels]
    owners = np.where(moved == LEFT_OUT, np.int32(LEFT_OUT), document.owners)
    return replace(document, categories=categories, labels=moved, owners=owners)
