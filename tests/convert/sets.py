"""Small data sets for conversions: any names, ids and boxes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image

#: Spaces, quotes, CJK, commas, `=`, `%`: what people call files and classes.
LETTERS = st.characters(categories=("L", "N", "P", "S", "Zs"), exclude_characters="/\\\x00")
WORDS = st.text(LETTERS, min_size=1, max_size=8).map(str.strip).filter(bool)
#: No dots: a name's ending is ours, and Windows drops those at the end.
STEMS = WORDS.filter(lambda name: "." not in name and len(name.encode()) < 100)
FLAGS = st.sampled_from(["0", "1"])


@cache
def _pixels(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size[::-1], (90, 120, 60))


def write_image(path: Path, size: tuple[int, int]) -> Path:
    """A picture of (h, w) without anything in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _pixels(size).save(path)
    return path


def write_coco_set(root: Path, contents: dict[str, dict[str, Any]]) -> Path:
    """{split: COCO content} with pictures in images/<split>; returns `root`."""
    for split, content in contents.items():
        for image in content["images"]:
            place = root / "images" / split / image["file_name"]
            write_image(place, (image["height"], image["width"]))
        path = root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    return root


def read_coco_files(folder: Path) -> dict[str, dict[str, Any]]:
    """{split: content} of what was written."""
    files = sorted((folder / "annotations").glob("instances_*.json"))
    return {
        f.stem.removeprefix("instances_"): json.loads(f.read_text(encoding="utf-8")) for f in files
    }


@st.composite
def boxes(draw: st.DrawFn, size: tuple[int, int]) -> list[float]:
    """[x, y, w, h] in an image of (h, w), at least a hundredth of a pixel wide."""
    h, w = size
    x = draw(st.floats(0, w - 0.5))
    y = draw(st.floats(0, h - 0.5))
    return [x, y, draw(st.floats(0.01, w - x)), draw(st.floats(0.01, h - y))]


@st.composite
def coco_contents(
    draw: st.DrawFn, splits: tuple[str, ...] = ("train",), crowds: bool = True
) -> dict[str, dict[str, Any]]:
    """{split: content}: ids of both kinds, unknown keys, images without boxes."""
    names = draw(st.lists(WORDS, min_size=1, max_size=4, unique=True))
    ids = draw(
        st.lists(
            st.integers(-5, 99) | WORDS, min_size=len(names), max_size=len(names), unique_by=str
        )
    )
    categories = [
        {"id": i, "name": name, "supercategory": draw(WORDS)}
        for i, name in zip(ids, names, strict=True)
    ]
    stems = draw(st.lists(STEMS, min_size=len(splits), max_size=5, unique_by=str.casefold))
    text_ids = draw(st.booleans())
    contents: dict[str, dict[str, Any]] = {}
    number = 0
    for place, split in enumerate(splits):
        images, annotations = [], []
        for stem in stems[place :: len(splits)]:
            size = draw(st.sampled_from([(40, 60), (31, 17), (8, 200)]))
            image_id: int | str = f"{stem}/{split}" if text_ids else 7 * stems.index(stem)
            suffix = draw(st.sampled_from([".png", ".jpg", ".JPG"]))
            images.append(
                {"id": image_id, "file_name": stem + suffix, "height": size[0], "width": size[1]}
                | draw(st.dictionaries(st.sampled_from(["license", "date", "注"]), WORDS))
            )
            for box in draw(st.lists(boxes(size), max_size=3)):
                number += draw(st.integers(1, 9))
                annotations.append(
                    {
                        "id": number,
                        "image_id": image_id,
                        "category_id": draw(st.sampled_from(ids)),
                        "bbox": box,
                        "area": box[2] * box[3] / 2,
                        "iscrowd": draw(st.integers(0, 1)) if crowds else 0,
                        "segmentation": [[*box, 1, 2]],
                    }
                    | draw(st.dictionaries(st.sampled_from(["score", "odd key"]), WORDS))
                )
        more = draw(st.dictionaries(st.sampled_from(["info", "licenses"]), st.lists(WORDS)))
        contents[split] = {
            "images": images,
            "annotations": annotations,
            "categories": categories,
        } | more
    return contents
