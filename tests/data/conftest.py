"""Small data sets in every format, made on the spot."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CocoMaker = Callable[..., Path]


def save_image(path: Path, size: tuple[int, int] = (40, 60), seed: int = 0, **options: Any) -> Path:
    """A smooth random picture of (h, w)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    Image.fromarray(grid).resize(size[::-1], Image.Resampling.BICUBIC).save(path, **options)
    return path


def box(number: int, image: int | str = 1, category: int | str = 1, **changes: Any) -> dict:
    """A COCO annotation of a 60x40 image."""
    entry: dict[str, Any] = {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [10, 5, 20, 15],
        "area": 300,
        "iscrowd": 0,
    }
    return entry | changes


@pytest.fixture
def make_coco(tmp_path: Path) -> CocoMaker:
    """`make_coco(annotations, images=…, categories=…)` writes a data set, returns its JSON."""

    def make(
        annotations: list[Any],
        images: list[Any] | None = None,
        categories: list[Any] | None = None,
        split: str = "train",
        files: bool = True,
        **more: Any,
    ) -> Path:
        if images is None:
            images = [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}]
        if categories is None:
            categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        for seed, entry in enumerate(images if files else []):
            if isinstance(entry, dict) and isinstance(entry.get("file_name"), str):
                save_image(tmp_path / "images" / split / entry["file_name"], seed=seed)
        path = tmp_path / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": categories}
        path.write_text(json.dumps(content | more), encoding="utf-8")
        return path

    return make


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """No log, where thousands of damaged files would fill it."""
    monkeypatch.setattr(logging.getLogger("detrkit"), "disabled", True)


def hostile_table(folder: Path) -> dict[str, str]:
    """File name -> what Pillow does with it, from the set's own table."""
    with open(folder / "table.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pillow_column = next(key for key in rows[0] if "pillow" in key.lower())
    return {row["file"]: row[pillow_column] for row in rows}


def refused_images(folder: Path) -> set[str]:
    """Names of the hostile images that cannot be read."""
    return {name for name, said in hostile_table(folder).items() if said.startswith("FAILS")}
