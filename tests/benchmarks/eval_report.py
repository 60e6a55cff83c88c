"""How long the HTML report on an evaluation takes, and how large it becomes.

    python -m tests.benchmarks.eval_report [--images 5000] [--detections 300] [--classes 80]

The boxes are those of `tests.benchmarks.evaluation`; the pictures are of noise, of which JPEG makes
more bytes than of any photograph, one file for every `--every` images. Timed is what follows
inference: counting, the page with its pictures, `metrics.json`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrkit import eval_report
from detrkit.data.index import DatasetIndex
from detrkit.data.strings import PackedStrings
from detrkit.engine.run_dir import environment
from detrkit.json_output import json_text
from detrkit.metrics import Truth, evaluate
from tests.benchmarks.analyze import timed
from tests.benchmarks.evaluation import scene, scene_parser


def index_of(truth: Truth, folder: Path, every: int) -> DatasetIndex:
    """A data set with these boxes, and pictures for them."""
    rng, count = np.random.default_rng(0), len(truth)
    for number in range(0, count, every):
        pixels = rng.integers(0, 256, (640, 640, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:012d}.jpg", quality=90)
    corners = truth.boxes_xywh.copy()
    corners[:, 2:] += corners[:, :2]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(truth.images, minlength=count))])
    return DatasetIndex(
        paths=PackedStrings.pack(str(folder / f"{i - i % every:012d}.jpg") for i in range(count)),
        sizes=truth.sizes.astype(np.int32),
        image_ids=np.array(truth.image_ids, np.int64),
        offsets=offsets.astype(np.int64),
        boxes_xyxy=corners.astype(np.float32),
        labels=truth.labels.astype(np.int64),
        iscrowd=truth.iscrowd,
        area=truth.area,
        annotation_ids=np.arange(len(truth.labels)),
        class_map=truth.class_map,
        apply_exif=np.ones(count, bool),
    )


def main() -> None:
    parser = scene_parser(__doc__)
    parser.add_argument("--every", type=int, default=50, help="images that share a picture")
    parser.add_argument("--keep", type=Path, help="folder for report.html and metrics.json")
    args = parser.parse_args()
    truth, predictions = scene(args.images, args.detections, args.classes, args.boxes)
    with tempfile.TemporaryDirectory() as name:
        index = index_of(truth, Path(name), args.every)
        out = args.keep or Path(name)
        facts: dict[str, Any] = {"data": "noise", "environment": environment(), "config": None}
        with timed("all"):
            with timed("numbers"):
                found = evaluate(truth, predictions)
            with timed("metrics.json"):
                numbers = {**facts, **found.to_dict(sources=index)}
                text = json_text("eval", numbers)
            with timed("page"):
                setting = eval_report.Setting.of("generated", numbers)
                page = eval_report.report(found, setting, index, out).encode()
        (out / "report.html").write_bytes(page)
        (out / "metrics.json").write_text(text, encoding="utf-8")
    print(f"report.html {len(page) / 1e6:.2f} MB, metrics.json {len(text.encode()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
