"""How fast detections are counted, and in how much memory.

    python -m tests.benchmarks.evaluation [--images 5000] [--detections 300] [--classes 80]

Each way runs in a process of its own on the same generated boxes. Timed is what follows inference:
from the columns of all detections to COCO's twelve numbers, and for `report` to everything that
`detrkit eval` tells; `bootstrap` adds the thousand draws of `detrkit compare`. pycocotools gets the
rows as one array; the dictionaries that it makes of them are part of what it costs. Memory is the
peak of the process over that before the call, with the columns in it. Wall time depends on who
else uses the machine: the time of the processor stands beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.benchmarks.index import memory


def scene(images: int, detections: int, classes: int, boxes: int) -> tuple[Any, Any]:
    """Ground truth and detections, the best of them near the boxes, the rest anywhere."""
    from detrkit.metrics.predictions import Predictions
    from detrkit.metrics.truth import Truth
    from detrkit.structures import ClassMap

    rng = np.random.default_rng(0)
    counts = rng.poisson(boxes, images)
    total = int(counts.sum())
    corners = rng.random((total, 2)) * (500, 350)
    sides = np.exp(rng.normal(3.8, 0.9, (total, 2))).clip(4, 400)
    labels = rng.integers(0, classes, total)
    truth = Truth.of(
        SimpleNamespace(
            image_ids=np.arange(images) * 7 + 3,
            sizes=np.full((images, 2), 640),
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            boxes_xyxy=np.concatenate([corners, corners + sides], 1).astype(np.float32),
            labels=labels,
            iscrowd=rng.random(total) < 0.01,
            area=sides.prod(1) * 0.7,
            class_map=ClassMap.from_names([f"class {k}" for k in range(classes)]),
        )
    )
    number = images * detections
    owners = np.repeat(np.arange(images, dtype=np.int32), detections)
    found = np.concatenate(
        [rng.random((number, 2)) * (500, 350), np.exp(rng.normal(3.8, 0.9, (number, 2)))], 1
    )
    kinds = rng.integers(0, classes, number).astype(np.int32)
    scores = rng.beta(0.5, 6, number)
    ends = np.cumsum(counts)
    for turn in range(2):  # two detections for most boxes
        has = np.flatnonzero(counts > 0)
        for i in has.tolist():
            own = np.arange(ends[i] - counts[i], ends[i])[: detections // 2]
            rows = i * detections + turn * (detections // 2) + np.arange(len(own))
            noise = rng.normal(0, 0.08 + 0.08 * turn, (len(own), 4))
            found[rows] = truth.boxes_xywh[own] * 1.0 + noise * np.tile(
                truth.boxes_xywh[own, 2:], 2
            )
            wrong = rng.random(len(own)) < 0.15
            kinds[rows] = np.where(wrong, rng.integers(0, classes, len(own)), labels[own])
            scores[rows] = rng.beta(4 - 2 * turn, 2, len(own))
    found[:, 2:] = found[:, 2:].clip(1)
    scores = scores.astype(np.float32).astype(np.float64)
    return truth, Predictions(owners, kinds, scores, found.astype(np.float32).astype(np.float64))


def by_backend(backend: str) -> Callable[[Any, Any], Any]:
    from detrkit.metrics.coco import count

    return lambda truth, found: count(truth, found, backend).coco_numbers  # type: ignore[arg-type]


def whole_report(backend: str) -> Callable[[Any, Any], Any]:
    from detrkit.metrics.report import evaluate

    return lambda truth, found: evaluate(truth, found, backend).metrics.coco_numbers  # type: ignore[arg-type]


def draws() -> Callable[[Any, Any], Any]:
    """Counting, and counting again on a thousand draws of the images (`detrkit compare`)."""
    from detrkit.metrics.bootstrap import bootstrap, draw
    from detrkit.metrics.coco import count
    from detrkit.metrics.matching import match

    def call(truth: Any, found: Any) -> Any:
        matches = match(truth, found)
        bootstrap(matches, draw(len(truth)))
        return count(truth, found, matches=matches).coco_numbers

    return call


#: `report+NAME`: all tables, the twelve numbers by another counter.
WAYS = ("detrkit", "hotcoco", "report", "report+hotcoco", "bootstrap", "pycocotools")


def measure(way: str, args: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: the boxes and the imports, then the call."""
    truth, found = scene(args.images, args.detections, args.classes, args.boxes)
    kind, _, backend = way.partition("+")
    others = {"report": partial(whole_report, backend or "detrkit"), "bootstrap": draws}
    call = others[kind]() if kind in others else by_backend(way)
    tiny = found.select(found.images < 3)
    call(truth, tiny)  # imports that come late
    gc.collect()
    before = memory()
    started, worked = time.perf_counter(), time.process_time()
    numbers = call(truth, found)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "memory": memory().get("peak", 0) - before.get("rss", 0),
        "numbers": numbers,
    }


def scene_parser(about: str) -> argparse.ArgumentParser:
    """With the arguments of `scene`.

    Args:
        about: the docstring of the script.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=300, help="per image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--boxes", type=float, default=7.3, help="per image, on average")
    return parser


def main() -> None:
    parser = scene_parser(__doc__)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        json.dump(measure(args.measure, args), sys.stdout)
        return
    rows: dict[str, dict[str, Any]] = {}
    options = [f"--{n}={getattr(args, n)}" for n in ("images", "detections", "classes", "boxes")]
    for way in args.ways:
        command = [sys.executable, "-m", "tests.benchmarks.evaluation", *options, "--measure", way]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
        rows[way] = json.loads(done.stdout)
    if args.json:
        json.dump(rows, sys.stdout)
        return
    out, judge = sys.stdout.write, rows.get("pycocotools")
    out(f"{args.images:,} images x {args.detections} detections, {args.classes} classes\n")
    titles = {"seconds": 9, "of CPU": 9, "memory": 12, "faster": 9, "share": 9, "differs": 10}
    out(" " * 16 + "".join(f"{title:>{width}}" for title, width in titles.items()) + "\n")
    for way, row in rows.items():
        line = f"{way:16}{row['seconds']:9.2f}{row['cpu_seconds']:9.2f}"
        line += f"{row['memory'] / 1e6:9,.0f} MB"
        if judge:
            differs = np.abs(np.subtract(row["numbers"], judge["numbers"])).max()
            line += f"{judge['seconds'] / row['seconds']:8.1f}x"
            line += f"{row['memory'] / judge['memory']:9.3f}{differs:10.1e}"
        out(line + "\n")


if __name__ == "__main__":
    main()
