"""A small data set with pictures and detections of every kind of error, evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrkit.cli.app import main

NASTY = "<b>猫</b>&\"'`{a}"
#: Also of files: what has a meaning in addresses.
FILES = [f"{i} #50% <i>ä.jpg" for i in range(8)]
BOX, OTHER = (20, 20, 60, 50), (150, 90, 40, 40)


def write(folder: Path, *, images: bool = True) -> tuple[Path, Path]:
    """The annotations and the detections."""
    rng = np.random.default_rng(0)
    rows, found = [], []
    for i, name in enumerate(FILES):
        if images:
            pixels = rng.integers(0, 256, (150, 220, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name)
        rows += [(i, 1, BOX), (i, 2, OTHER)]
        found += [(i, 1, BOX, 0.9)]
        if i < 5:
            found += [(i, 2, OTHER, 0.8)]
    found += [(5, 3, OTHER, 0.85), (6, 1, (100, 10, 30, 30), 0.95)]  # 7: missed
    sizes = {"height": 150, "width": 220}
    truth = {
        "images": [{"id": i, "file_name": name, **sizes} for i, name in enumerate(FILES)],
        "categories": [{"id": 1, "name": NASTY}, {"id": 2, "name": "dog"}, {"id": 3, "name": "x"}],
        "annotations": [
            {"id": 500 + n, "image_id": i, "category_id": c, "bbox": b, "iscrowd": 0,
             "area": b[2] * b[3]}
            for n, (i, c, b) in enumerate(rows)
        ],
    }  # fmt: skip
    results = [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in found]
    for name, content in (("truth.json", truth), ("found.json", results)):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder / "truth.json", folder / "found.json"


def evaluate(folder: Path, truth: Path, found: Path) -> tuple[str, dict[str, Any]]:
    """The page and `metrics.json` that the command writes."""
    out = folder / "out"
    options = ["--predictions", str(found), "--annotations", str(truth), "-o", str(out)]
    assert main(["eval", *options]) == 0
    return (
        (out / "report.html").read_text(encoding="utf-8"),
        json.loads((out / "metrics.json").read_text(encoding="utf-8")),
    )
