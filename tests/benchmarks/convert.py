"""Seconds and memory of a conversion of a large COCO file, against `json` as scripts use it.

    python tests/benchmarks/convert.py --images 400000 --boxes 15

Writes annotations in the style of Objects365 (no pictures), then, each in a process of its own:

- `detrkit`: reads the file as a document, divides it by class into two parts, writes both.
- `json`: json.load, the same selection with dictionaries, json.dump of both parts.

Memory is what the process needed at most beyond what it needed with its imports alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from detrkit.convert.from_coco import read_document
from detrkit.convert.partition import Boxes, divide
from detrkit.data.coco_writer import write_coco

CLASSES = 365


def images_of(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        name = f"images/v1/patch{number % 50}/objects365_v1_{number:08d}.jpg"
        url = f"https://example.com/{number:08d}_b.jpg"
        yield {
            "id": number, "license": 5, "file_name": name, "height": 512, "width": 768, "url": url,
        }  # fmt: skip


def boxes_of(images: int, each: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    number = 0
    for image in range(images):
        values = rng.random((each, 4)).round(6).tolist()
        classes = (CLASSES * rng.random(each) ** 2).astype(int).tolist()
        for (x, y, w, h), category in zip(values, classes, strict=True):
            yield {
                "id": number, "iscrowd": 0, "isfake": 0, "isreflected": 0, "area": w * h * 1e4,
                "bbox": [x * 600, y * 400, w * 100, h * 100],
                "image_id": image, "category_id": category,
            }  # fmt: skip
            number += 1


def with_detrkit(source: Path, folder: Path) -> None:
    document = read_document(source, folder, look=False)
    found = Boxes(len(document), document.owners, document.labels)
    parts = divide(found, (0.9, 0.1), stratify=True)
    for number in range(2):
        part = document.subset(np.flatnonzero(parts == number))
        write_coco(
            folder / f"{number}.json",
            images=part.images,
            annotations=part.annotations(),
            categories=part.categories,
        )


def with_json(source: Path, folder: Path) -> None:
    content = json.loads(source.read_text(encoding="utf-8"))
    rng = np.random.default_rng(0)
    chosen = {image["id"] for image in content["images"] if rng.random() < 0.1}
    for number in range(2):
        part = {
            "images": [i for i in content["images"] if (i["id"] in chosen) == number],
            "annotations": [
                a for a in content["annotations"] if (a["image_id"] in chosen) == number
            ],
            "categories": content["categories"],
        }
        (folder / f"{number}.json").write_text(json.dumps(part), encoding="utf-8")


def peak() -> float:
    """Megabytes that this process had at most."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--boxes", type=int, default=15, help="per image")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        way, source = args.run
        before, start = peak(), time.perf_counter()
        with tempfile.TemporaryDirectory(dir=Path(source).parent) as folder:
            {"detrkit": with_detrkit, "json": with_json}[way](Path(source), Path(folder))
        seconds = time.perf_counter() - start
        print(f"{way:8} {seconds:7.1f} s {peak() - before:8.0f} MB")
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "all.json")
        categories = [{"id": i, "name": f"class {i}"} for i in range(CLASSES)]
        write_coco(
            source,
            images=images_of(args.images),
            annotations=boxes_of(args.images, args.boxes),
            categories=categories,
        )
        count = args.images * args.boxes
        print(f"{args.images:,} images, {count:,} boxes, {source.stat().st_size / 1e6:.0f} MB")
        for way in ("detrkit", "json"):
            subprocess.run([sys.executable, __file__, "--run", way, str(source)], check=True)


if __name__ == "__main__":
    main()
