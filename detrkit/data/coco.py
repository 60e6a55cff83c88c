"""COCO JSON: `images`, `annotations` with `bbox` [x, y, w, h], `categories`.

Image, annotation and category ids may be any ints or strings, with gaps. Crowd regions are kept
for evaluation; `DetectionDataset` leaves them out of training targets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detrkit.data.builder import IndexBuilder
from detrkit.data.classes import adopt, merge_categories
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.files import ImageFinder
from detrkit.data.index import DatasetIndex
from detrkit.data.text import read_json
from detrkit.errors import did_you_mean
from detrkit.structures import ClassMap

_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")


def is_coco(content: object) -> bool:
    """Whether parsed JSON looks like a COCO data set."""
    return (
        isinstance(content, Mapping)
        and "images" in content
        and ("annotations" in content or "categories" in content)
    )


def read_categories(ann_file: str | Path, content: Mapping[str, Any]) -> dict[int | str, str]:
    """{category id: name} of a parsed file.

    Raises:
        DataError: categories are missing or malformed, or two share an id.
    """
    report = FaultReport()
    found: dict[int | str, str] = {}
    for number, entry in enumerate(_list_of(ann_file, content, "categories")):
        place = f"categories[{number}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("id"), int | str):
            report.add(FaultKind.BAD_STRUCTURE, ann_file, place, "needs an `id`, int or str")
        name = str(entry.get("name", entry["id"]))
        if found.setdefault(entry["id"], name) != name:
            detail = f"`{found[entry['id']]}` and `{name}`"
            report.add(FaultKind.DUPLICATE_CATEGORY_ID, ann_file, f"category {entry['id']}", detail)
    if not found:
        report.add(FaultKind.BAD_STRUCTURE, ann_file, "categories", "the list is empty")
    return found


def read_coco(
    ann_file: str | Path,
    img_folder: str | Path | Sequence[Path] | None = None,
    *,
    content: Mapping[str, Any] | None = None,
    class_map: ClassMap | None = None,
) -> DatasetIndex:
    """Reads a COCO annotation file.

    Args:
        ann_file: the JSON file.
        img_folder: folder of the images, or several to look through; None looks in the usual
            places around `ann_file`.
        content: the parsed file, when it is at hand.
        class_map: classes to use, matched by name; None takes the file's, sorted by id.

    Raises:
        DataError: the file is missing, not JSON, not COCO, or none of its images can be found.
    """
    if content is None:
        content = read_json(ann_file)
    if not isinstance(content, Mapping):
        FaultReport().add(FaultKind.BAD_STRUCTURE, ann_file, "", "expected a JSON object")
    images = _list_of(ann_file, content, "images")
    annotations = _list_of(ann_file, content, "annotations")
    found = merge_categories([(str(ann_file), read_categories(ann_file, content))])
    classes, matches = adopt(class_map or found, found)
    builder = IndexBuilder(classes, str(ann_file))
    numbers = _add_images(builder, ann_file, images, ImageFinder.around(ann_file, img_folder))
    _add_boxes(builder, str(ann_file), annotations, numbers, found, matches)
    return builder.build()


def _add_images(
    builder: IndexBuilder, ann_file: str | Path, images: list[Any], finder: ImageFinder
) -> dict[int | str, int | None]:
    """{image id: number in the builder, None for entries without a usable file}."""
    files: dict[int | str, str] = {}
    numbers: dict[int | str, int | None] = {}
    text_ids = any(isinstance(i, Mapping) and isinstance(i.get("id"), str) for i in images)
    for position, entry in enumerate(images):
        place = f"images[{position}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("file_name"), str):
            detail = "needs `id` and `file_name`"
            builder.faults.add(FaultKind.WRONG_TYPE, ann_file, place, detail)
            continue
        image_id, name = entry.get("id"), entry["file_name"]
        if not isinstance(image_id, int | str) or isinstance(image_id, bool):
            builder.faults.add(FaultKind.WRONG_TYPE, ann_file, place, f"`id` is {image_id!r}")
            continue
        if image_id in files:
            kind = FaultKind.DUPLICATE_IMAGE_ID
            if files[image_id] != name:
                kind = FaultKind.AMBIGUOUS_IMAGE_ID
            builder.faults.add(
                kind,
                ann_file,
                f"image {image_id}",
                f"{files[image_id]} and {name}",
                hint="give every image its own id: boxes cannot be told apart otherwise",
            )
            continue
        files[image_id] = name
        path, repaired = finder.find(name)
        if repaired:
            builder.faults.add(FaultKind.REPAIRED_PATH, ann_file, f"image {image_id}", f"{path}")
        size = (_number(entry.get("height")), _number(entry.get("width")))
        own_id = str(image_id) if text_ids else image_id
        numbers[image_id] = builder.add_image(
            path, own_id, (int(size[0]), int(size[1])) if size[0] and size[1] else None
        )
    return numbers


def _add_boxes(
    builder: IndexBuilder,
    file: str,
    annotations: list[Any],
    numbers: Mapping[int | str, int | None],
    found: ClassMap,
    matches: Mapping[int, int],
) -> None:
    faults = builder.faults
    text_keys: dict[str, int | str] = {str(i): i for i in numbers}
    left_out: defaultdict[str, int] = defaultdict(int)
    for position, entry in enumerate(annotations):
        if not isinstance(entry, Mapping):
            faults.add(FaultKind.WRONG_TYPE, file, f"annotations[{position}]", "not an object")
            continue
        where = f"annotation {entry.get('id', f'number {position}')}"
        missing = [k for k in ("image_id", "category_id", "bbox") if k not in entry]
        if missing:
            unknown = [k for k in entry if k not in _ANNOTATION_KEYS]
            near = [f"`{k}`{did_you_mean(k, missing)}" for k in unknown if did_you_mean(k, missing)]
            detail = f"unknown key {near[0]}" if near else f"key `{missing[0]}` is missing"
            faults.add(FaultKind.UNKNOWN_KEY, file, where, detail)
            continue
        image_id, category, box = entry["image_id"], entry["category_id"], entry["bbox"]
        if not isinstance(image_id, int | str) or not isinstance(category, int | str):
            faults.add(FaultKind.WRONG_TYPE, file, where, "`image_id` or `category_id`")
            continue
        image = numbers.get(image_id, numbers.get(text_keys.get(str(image_id), image_id)))
        if image is None:
            faults.add(FaultKind.UNKNOWN_IMAGE, file, where, f"image {image_id}")
            continue
        if category not in found.index_of_id:
            faults.add(FaultKind.UNKNOWN_CLASS, file, where, f"category {category}")
            continue
        if found.index_of_id[category] not in matches:
            left_out[found.names[found.index_of_id[category]]] += 1
            continue
        values = [_number(v) for v in box] if isinstance(box, list) and len(box) == 4 else [None]
        if None in values:
            faults.add(FaultKind.WRONG_TYPE, file, where, f"`bbox` is {box!r}")
            continue
        x, y, w, h = (float(v) for v in values if v is not None)
        number = entry.get("id")
        area = _number(entry.get("area"))
        builder.add_box(
            image,
            (x, y, x + w, y + h),
            matches[found.index_of_id[category]],
            file=file,
            where=where,
            iscrowd=bool(entry.get("iscrowd", 0)),
            area=float("nan") if area is None else area,
            annotation_id=number if isinstance(number, int) and abs(number) < 1 << 62 else None,
        )
    for name, count in left_out.items():
        faults.add(
            FaultKind.UNKNOWN_CLASS, file, f"class `{name}`", f"{count} boxes; not in the model"
        )


def _list_of(file: str | Path, content: Mapping[str, Any], key: str) -> list[Any]:
    value = content.get(key)
    if not isinstance(value, list):
        detail = f"`{key}` must be a list"
        if key not in content:
            detail = f"`{key}` is missing{did_you_mean(key, list(content))}"
        FaultReport().add(
            FaultKind.BAD_STRUCTURE,
            file,
            "",
            detail,
            hint="a COCO file has the lists `images`, `annotations` and `categories`",
        )
    return list(value or [])


def _number(value: object) -> float | None:
    """A JSON number, also when written as text; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float | str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return None
    return None
