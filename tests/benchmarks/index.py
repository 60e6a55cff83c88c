"""Opening a large COCO file: `json`, pycocotools and detrkit, seconds and memory, in one run.

    python tests/benchmarks/index.py                         500,000 images, 8 million boxes
    python tests/benchmarks/index.py --images 50000 --boxes 800000

The file is synthetic: boxes of random images in random order, no polygons. There are no pictures,
so detrkit opens it with `check_images="none"`. Every figure is of a process of its own:

- seconds of the call alone; what is imported before it is not counted;
- peak: the largest resident memory of the process, and how much of that came after the imports.

A loader worker is a spawned process that gets the data set and then takes boxes, labels, areas and
paths of 100,000 random images, as an epoch does for each of several workers. Its memory counts
three ways, each less that of the same worker with an empty data set (which is Python, torch and
detrkit): resident (RSS), proportional (PSS: shared pages divided by the processes that share them)
and private. The worker's whole memory is printed as well. Memory is read from /proc, so only Linux
has all figures.

`json` and pycocotools need about 1.3 kB of memory for a box: the run stops where that is missing.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

#: Bytes per box of Python objects, rounded up.
BYTES_PER_BOX = 1500
CLASSES = 80
WORKERS = 4


def write(path: Path, images: int, boxes: int) -> None:
    """The synthetic file, in the order of the official ones."""
    rng = np.random.default_rng(0)
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"info": {"description": "synthetic"}, "licenses": [], "images": [')
        for i in range(images):
            entry = f'"id": {7 * i + 3}, "file_name": "{i:012d}.jpg", "height": 480, "width": 640'
            file.write(f'{", " if i else ""}{{{entry}, "license": 1}}')
        file.write('], "annotations": [')
        step = 100_000
        for start in range(0, boxes, step):
            count = min(step, boxes - start)
            owners = (7 * rng.integers(0, images, count) + 3).tolist()
            classes = rng.integers(1, CLASSES + 1, count).tolist()
            corners = (rng.random((count, 2)) * (500, 350)).round(2).tolist()
            sides = (rng.random((count, 2)) * 120 + 5).round(2).tolist()
            rows = zip(owners, classes, corners, sides, strict=True)
            for number, (owner, category, (x, y), (w, h)) in enumerate(rows, start):
                file.write(
                    f"{', ' if number else ''}"
                    f'{{"id": {number + 1}, "image_id": {owner}, "category_id": {category}, '
                    f'"bbox": [{x}, {y}, {w}, {h}], "area": {w * h:.4f}, "iscrowd": 0, '
                    f'"segmentation": []}}'
                )
        file.write('], "categories": [')
        file.write(", ".join(f'{{"id": {i}, "name": "class {i}"}}' for i in range(1, CLASSES + 1)))
        file.write("]}")


def memory() -> dict[str, int]:
    """Bytes of this process: resident, peak, proportional and private, as far as known."""
    found: dict[str, int] = {}
    names = {"VmRSS": "rss", "VmHWM": "peak", "Pss": "pss"}
    for place in ("/proc/self/status", "/proc/self/smaps_rollup"):
        if not os.path.exists(place):
            continue
        for line in Path(place).read_text().splitlines():
            name, _, value = line.partition(":")
            if name in names:
                found[names[name]] = int(value.split()[0]) * 1024
            elif name in ("Private_Clean", "Private_Dirty"):
                found["private"] = found.get("private", 0) + int(value.split()[0]) * 1024
    return found


def with_json(path: str) -> Callable[[], object]:
    def read() -> object:
        with open(path, encoding="utf-8") as file:
            return json.load(file)

    return read


def with_pycocotools(path: str) -> Callable[[], object]:
    from contextlib import redirect_stdout

    from pycocotools.coco import COCO

    def read() -> object:
        with redirect_stdout(sys.stderr):
            return COCO(path)

    return read


def with_detrkit(path: str) -> Callable[[], object]:
    from detrkit.data import open_dataset

    return lambda: open_dataset(path, check_images="none")


WAYS = {"json": with_json, "pycocotools": with_pycocotools, "detrkit": with_detrkit}


def measure(way: str, path: str) -> dict[str, float]:
    """In a process of its own: imports, then the call."""
    call = WAYS[way](path)
    gc.collect()
    before = memory()
    started = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - started
    after = memory()
    del result
    return {
        "seconds": seconds,
        "peak": after.get("peak", 0),
        "peak_of_data": after.get("peak", 0) - before.get("rss", 0),
    }


def work(dataset: Any, ready: Any, results: Any, go: Any) -> None:
    """A loader worker without its pictures."""
    index = dataset.index
    total = 0.0
    for number in np.random.default_rng(os.getpid()).permutation(len(index))[:100_000].tolist():
        rows = index.boxes_of(number)
        total += float(index.boxes_xyxy[rows].sum() + index.labels[rows].sum())
        total += float(index.area[rows].sum()) + len(index.paths[number]) + index.size(number)[0]
    ready.put(total)
    go.wait()  # all measure while all are there
    results.put(memory())


def workers(path: str) -> dict[str, dict[str, float]]:
    """Memory of a worker with the data set, and of one without."""
    from detrkit.data import DetectionDataset, open_dataset

    whole = open_dataset(path, check_images="none")
    found = {}
    for name, index in {"empty": whole.subset([]), "full": whole}.items():
        methods = get_context("spawn")
        ready, results, go = methods.Queue(), methods.Queue(), methods.Event()
        dataset = DetectionDataset(index)
        processes = [
            methods.Process(target=work, args=(dataset, ready, results, go)) for _ in range(WORKERS)
        ]
        for process in processes:
            process.start()
        for _ in processes:
            ready.get()
        go.set()
        rows = [results.get() for _ in processes]
        for process in processes:
            process.join()
        found[name] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return found


def in_process(*arguments: str, cache: Path) -> Any:
    environment = {**os.environ, "DETRKIT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return json.loads(done.stdout)


def available() -> int | None:
    """Bytes of memory that can be used without swapping, where the system says."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def run(images: int, boxes: int, folder: Path, only_ours: bool) -> dict[str, Any]:
    path, cache = folder / "instances_train.json", folder / "cache"
    write(path, images, boxes)
    result: dict[str, Any] = {"images": images, "boxes": boxes, "file": path.stat().st_size}
    if not only_ours:
        for way in ("json", "pycocotools"):
            result[way] = in_process("--measure", way, str(path), cache=cache)
    result["detrkit, first"] = in_process("--measure", "detrkit", str(path), cache=cache)
    result["detrkit, later"] = in_process("--measure", "detrkit", str(path), cache=cache)
    result["on disk"] = sum(f.stat().st_size for f in cache.rglob("*") if f.is_file())
    result["workers"] = in_process("--workers", str(path), cache=cache)
    return result


def show(result: dict[str, Any]) -> None:
    def mb(value: float) -> str:
        return f"{value / 1e6:8,.0f} MB"

    out = sys.stdout.write
    out(f"{result['images']:,} images, {result['boxes']:,} boxes, {mb(result['file']).strip()}\n")
    out(f"{'':16}{'seconds':>9}{'peak':>12}{'of the data':>12}\n")
    for way in ("json", "pycocotools", "detrkit, first", "detrkit, later"):
        if way in result:
            row = result[way]
            out(f"{way:16}{row['seconds']:9.2f} {mb(row['peak'])} {mb(row['peak_of_data'])}\n")
    out(f"index on disk: {mb(result['on disk']).strip()}\n")
    full, empty = result["workers"]["full"], result["workers"]["empty"]
    out(f"each of {WORKERS} workers after an epoch:\n")
    for key in ("rss", "pss", "private"):
        if key in full:
            rest = mb(full[key] - empty[key]).strip()
            out(f"  {key:8} {mb(full[key])}, of the data {rest}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500_000)
    parser.add_argument("--boxes", type=int, default=8_000_000)
    parser.add_argument("--only-ours", action="store_true", help="leave json and pycocotools out")
    parser.add_argument("--folder", help="where the file is written; default a temporary one")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--workers", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        json.dump(measure(*args.measure), sys.stdout)
        return
    if args.workers:
        json.dump(workers(args.workers), sys.stdout)
        return
    free, needed = available(), args.boxes * BYTES_PER_BOX
    if not args.only_ours and free is not None and free < needed:
        sys.exit(
            f"{free / 1e9:.1f} GB of memory are free, json needs {needed / 1e9:.1f}: fewer boxes"
        )
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = run(args.images, args.boxes, Path(folder), args.only_ours)
    if args.json:
        json.dump(result, sys.stdout)
    else:
        show(result)


if __name__ == "__main__":
    main()
