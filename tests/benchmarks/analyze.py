"""How long `dataset-analyze` takes on a data set as large as COCO's training set.

    python -m tests.benchmarks.analyze                     118 287 images, 860 001 boxes
    python -m tests.benchmarks.analyze --corners 0         without segments

Writes a COCO file with boxes and polygons at random (no pictures) into a temporary folder, or
takes `--file`, and prints the seconds of each part and of the whole command in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from detrkit.analysis import TrainingSetup, advise, describe, find, find_duplicates, find_suspicious
from detrkit.analysis.html import report
from detrkit.data.detect import open_splits

SIZES = np.array([[480, 640], [427, 640], [640, 480], [640, 427], [500, 375]])


@contextmanager
def timed(what: str) -> Iterator[None]:
    start, before = time.perf_counter(), os.times()
    yield
    wall, after = time.perf_counter() - start, os.times()
    cpu = sum(after[:4]) - sum(before[:4])  # of this process and its children
    print(f"{what:40}{wall:8.2f} s {cpu:8.2f} s of a core", flush=True)


def write(path: Path, images: int, boxes: int, corners: int, seed: int = 0) -> None:
    """A COCO file of 80 classes; areas are a part of the boxes, as those of segments are."""
    rng = np.random.default_rng(seed)
    sizes = SIZES[rng.integers(0, len(SIZES), images)]
    owners = np.sort(rng.choice(images, boxes, p=rng.dirichlet(np.ones(images))))
    limit = sizes[owners][:, ::-1]
    wh = limit * np.exp(rng.normal(-2, 1, (boxes, 2))).clip(0.003, 1)
    xy = (limit - wh) * rng.random((boxes, 2))
    labels = rng.zipf(1.3, boxes) % 80
    share = rng.uniform(0.4, 1, boxes)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": {}, "images": ')
        json.dump(
            [
                {"id": i, "file_name": f"{i:012d}.jpg", "height": int(h), "width": int(w)}
                for i, (h, w) in enumerate(sizes)
            ],
            file,
        )
        file.write(', "annotations": [')
        for i in range(boxes):
            x, y, w, h = (round(float(v), 2) for v in (*xy[i], *wh[i]))
            turns = np.linspace(0, 2 * np.pi, corners, endpoint=False)
            outline = np.stack([x + w / 2 * (1 + np.cos(turns)), y + h / 2 * (1 + np.sin(turns))])
            segments = [outline.T.round(2).ravel().tolist()] if corners else []
            entry = {
                "segmentation": segments,
                "area": round(w * h * float(share[i]), 4),
                "iscrowd": 0,
                "image_id": int(owners[i]),
                "bbox": [x, y, w, h],
                "category_id": int(labels[i]) + 1,
                "id": i + 1,
            }
            file.write((", " if i else "") + json.dumps(entry))
        file.write('], "categories": ')
        json.dump([{"id": i + 1, "name": f"class {i}"} for i in range(80)], file)
        file.write("}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=860_001)
    parser.add_argument("--corners", type=int, default=24, help="of each polygon; 0 for none")
    parser.add_argument("--file", type=Path, help="a COCO file; written if it is not there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DETRKIT_CACHE"] = f"{folder}/cache"  # nothing read earlier helps
        path = args.file or Path(folder) / "instances_train.json"
        if not path.is_file():
            with timed("(writing the file)"):
                write(path, args.images, args.boxes, args.corners)
        print(f"{path.stat().st_size / 1e6:.0f} MB")
        setup = TrainingSetup()
        with timed("reading"):
            parts = open_splits(path, check_images="none")
        index = next(iter(parts.values()))
        print(f"{len(index)} images, {index.num_boxes} boxes")
        with timed("statistics"):
            describe(index, setup)
        with timed("suspicious boxes"):
            find_suspicious(index, setup)
        with timed("duplicate file names"):
            find_duplicates(parts)
        with timed("all findings"):
            findings = find(str(path), parts, setup)
        with timed("advice"):
            advice = advise(findings)
        with timed("HTML"):
            report(findings, advice).encode()
        os.environ["DETRKIT_CACHE"] = f"{folder}/another"
        for what in ("the first time", "with the index kept"):
            with timed(f"the command, {what}"):
                subprocess.run(
                    [sys.executable, "-m", "detrkit", "dataset-analyze", str(path)],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )


if __name__ == "__main__":
    main()
