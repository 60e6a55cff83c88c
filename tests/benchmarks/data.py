"""Images per second and core: detrkit's data pipeline against plain Pillow and torchvision v2.

    python tests/benchmarks/data.py ../shared/data/bccd
    python tests/benchmarks/data.py ../shared/data/bccd --recipe deim --cache ram

All run the same recipe on the same images in this process on one thread, in turns, from the
file to a float32 batch; `process_time` counts, so other programs disturb little.

- `dfine`: photometric, zoom-out, IoU crop, flip, 640 pixels, several sizes.
- `deim`: DEIMv2's strongest epochs: half of the images are mosaics, half of the batches MixUp,
  half of the others CopyBlend. The plain mosaic keeps 50 pictures, as the authors' does. Ours
  keeps what fits into its memory: here soon all; `--no-memory` shows what large data sets get.

`--cache ram` (or `disk`, with files that lie in the system's memory) adds detrkit with images that
were decoded before; filling the cache is not counted, but shown.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.transforms.v2 as T
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import box_convert
from torchvision.transforms.v2 import functional as TF

from detrkit.data import BatchImageCollateFunction, Compose, DetectionDataset, open_dataset
from detrkit.data.caching import Filled, Room, cache_in_memory, cache_on_disk
from detrkit.data.index import DatasetIndex
from detrkit.data.pixels import use_one_thread
from detrkit.data.sample import SampleKey
from detrkit.data.transforms import mosaic

STRONG = ("RandomPhotometricDistort", "RandomZoomOut", "RandomIoUCrop")
#: An epoch in which everything is on.
EPOCH = 10

Pair = tuple[Any, dict[str, Tensor]]


def transforms(recipe: str, size: int) -> Compose:
    """The transforms of the D-FINE or DEIMv2 configurations."""
    ops: list[dict[str, Any]] = [
        {"type": "RandomPhotometricDistort", "p": 0.5},
        {"type": "RandomZoomOut", "fill": 0},
        {"type": "RandomIoUCrop", "p": 0.8},
        {"type": "SanitizeBoundingBoxes", "min_size": 1},
        {"type": "RandomHorizontalFlip"},
        {"type": "Resize", "size": [size, size]},
        {"type": "SanitizeBoundingBoxes", "min_size": 1},
        {"type": "ConvertPILImage", "dtype": "float32", "scale": True},
        {"type": "ConvertBoxes", "fmt": "cxcywh", "normalize": True},
    ]
    if recipe == "dfine":
        return Compose(ops, {"name": "stop_epoch", "epoch": 72, "ops": list(STRONG)})
    first = {"type": "Mosaic", "output_size": size // 2, "rotation_range": 10, "fill_value": 0}
    policy = {"name": "stop_epoch", "epoch": [4, 64, 120], "ops": ["Mosaic", *STRONG]}
    return Compose([first, *ops], policy, mosaic_prob=0.5)


def collate(recipe: str, size: int) -> BatchImageCollateFunction:
    """The collate function of the same configurations."""
    mixing: dict[str, Any] = {}
    if recipe == "deim":
        mixing = {"mixup_prob": 0.5, "mixup_epochs": [4, 64], "with_expand": True}
        mixing |= {"copyblend_prob": 0.5, "copyblend_epochs": [4, 120]}
    return BatchImageCollateFunction(base_size=size, base_size_repeat=3, stop_epoch=72, **mixing)


class PlainMosaic:
    """Four Pillow images, pasted and turned; three of them from a list of 50."""

    def __init__(self, size: int) -> None:
        self.resize = T.Resize(size)
        self.affine = T.RandomAffine(10, (0.1, 0.1), (0.5, 1.5), fill=0)
        self.kept: list[Pair] = []

    def __call__(self, image: Any, target: dict[str, Tensor]) -> Pair:
        image, target = self.resize(image, target)
        self.kept.append((image, target))
        if len(self.kept) > 50:
            self.kept.pop(random.randrange(50))
        parts = [(image, target), *random.choices(self.kept, k=3)]
        w = max(part.width for part, _ in parts)
        h = max(part.height for part, _ in parts)
        canvas = Image.new("RGB", (2 * w, 2 * h))
        boxes = []
        for (part, item), (x, y) in zip(parts, ((0, 0), (w, 0), (0, h), (w, h)), strict=True):
            canvas.paste(part, (x, y))
            boxes.append(item["boxes"] + torch.tensor([x, y, x, y]))
        merged = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.cat(boxes), format="XYXY", canvas_size=(2 * h, 2 * w)
            ),
            "labels": torch.cat([item["labels"] for _, item in parts]),
        }
        return self.affine(canvas, merged)  # type: ignore[no-any-return]


class Plain:
    """Pillow images through torchvision's v2 transforms."""

    def __init__(
        self, index: DatasetIndex, recipe: str, size: int, scales: list[tuple[int, int]]
    ) -> None:
        self.index = index
        self.scales = scales
        self.mixes = recipe == "deim"
        self.mosaic = PlainMosaic(size // 2)
        self.crop = T.RandomIoUCrop()
        self.distort = T.RandomPhotometricDistort(p=0.5)
        self.zoom = T.RandomZoomOut(fill=0)
        self.last = [
            T.SanitizeBoundingBoxes(min_size=1),
            T.RandomHorizontalFlip(),
            T.Resize(size=[size, size]),
            T.SanitizeBoundingBoxes(min_size=1),
        ]

    def sample(self, number: int) -> Pair:
        image = Image.open(self.index.paths[number]).convert("RGB")
        rows = self.index.boxes_of(number)
        boxes = torch.from_numpy(self.index.boxes_xyxy[rows])
        h, w = image.height, image.width
        target: dict[str, Tensor] = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(h, w)),
            "labels": torch.from_numpy(self.index.labels[rows]),
        }
        with_mosaic = self.mixes and random.random() < 0.5
        item: Pair = (image, target)
        if with_mosaic:
            item = self.mosaic(*item)
        item = self.distort(*item)
        if not with_mosaic:
            item = self.zoom(*item)
            item = self.crop(*item) if random.random() < 0.8 else item
        for op in self.last:
            item = op(*item)
        pixels = TF.pil_to_tensor(item[0]).float() / 255.0
        h, w = pixels.shape[-2:]
        target = item[1]
        target["boxes"] = box_convert(target["boxes"], "xyxy", "cxcywh") / torch.tensor(
            [w, h, w, h]
        )
        return pixels, target

    def batch(self, step: int, numbers: list[int]) -> tuple[Tensor, list[Any]]:
        items = [self.sample(number) for number in numbers]
        images = torch.cat([item[0][None] for item in items])
        targets = [item[1] for item in items]
        if self.mixes and random.random() < 0.5:
            images, targets = self.mix_up(images, targets)
        elif self.mixes and random.random() < 0.5:
            images, targets = self.copy_blend(images, targets)
        size = random.choice(self.scales)
        return F.interpolate(images, size=size), targets

    @staticmethod
    def mix_up(images: Tensor, targets: list[dict[str, Tensor]]) -> tuple[Tensor, list[Any]]:
        share = random.uniform(0.45, 0.55)
        images = images.roll(1, 0).mul_(1 - share).add_(images * share)
        pairs = zip(targets, targets[-1:] + targets[:-1], strict=True)
        return images, [{key: torch.cat([a[key], b[key]]) for key in a} for a, b in pairs]

    @staticmethod
    def copy_blend(images: Tensor, targets: list[dict[str, Tensor]]) -> tuple[Tensor, list[Any]]:
        h, w = images.shape[-2:]
        pool = [(i, k) for i, target in enumerate(targets) for k in range(len(target["labels"]))]
        result = images.clone()
        for image in result:
            for i, k in random.sample(pool, min(3, len(pool))):
                cx, cy, bw, bh = (targets[i]["boxes"][k] * torch.tensor([w, h, w, h])).tolist()
                x1, y1 = int(max(cx - bw / 2, 0)), int(max(cy - bh / 2, 0))
                x2, y2 = int(min(cx + bw / 2, w)), int(min(cy + bh / 2, h))
                left, top = random.randint(0, w - x2 + x1), random.randint(0, h - y2 + y1)
                place = image[:, top : top + y2 - y1, left : left + x2 - x1]
                place.copy_(place * 0.5 + images[i, :, y1:y2, x1:x2] * 0.5)
        return result, targets


class Ours:
    """detrkit's data set and collate function."""

    def __init__(
        self, index: DatasetIndex, recipe: str, size: int, collate: BatchImageCollateFunction
    ) -> None:
        self.dataset = DetectionDataset(index, transforms(recipe, size))
        self.collate = collate

    def fill(self, kind: str, max_side: int | None, folder: Path) -> Filled:
        """Decodes all images into memory, or into a folder."""
        self.dataset.max_side = max_side
        room = Room(1 << 62)
        if kind == "ram":
            return cache_in_memory(self.dataset, room, threads=1)
        return cache_on_disk(self.dataset, folder, room, threads=1)

    def batch(self, step: int, numbers: list[int]) -> Any:
        return self.collate([self.dataset[SampleKey(EPOCH, step, number)] for number in numbers])


def chunks(count: int, batch: int) -> Iterator[tuple[int, list[int]]]:
    numbers = cycle(range(count))
    return ((step, list(islice(numbers, batch))) for step in range(1 << 30))


def seconds(run: Callable[[int, list[int]], Any], parts: list[tuple[int, list[int]]]) -> float:
    """CPU seconds per image."""
    start = time.process_time()
    for step, numbers in parts:
        run(step, numbers)
    return (time.process_time() - start) / sum(len(numbers) for _, numbers in parts)


def measured(
    runs: dict[str, Callable[[int, list[int]], Any]],
    stream: Iterator[tuple[int, list[int]]],
    rounds: int,
) -> dict[str, list[float]]:
    """CPU seconds per image of each, in turns; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        parts = list(islice(stream, 5))
        for name, run in runs.items():
            spent = seconds(run, parts)
            if turn:
                times[name].append(spent)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a data set of any known layout")
    parser.add_argument("--recipe", choices=["dfine", "deim"], default="dfine")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=8, help="of 5 batches for each pipeline")
    parser.add_argument("--no-memory", action="store_true", help="mosaics read every picture")
    parser.add_argument("--cache", choices=["ram", "disk"])
    parser.add_argument("--cache-size", type=int, help="longer side of images in the cache")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    if args.no_memory:
        mosaic.MEMORY = 0
    use_one_thread()
    torch.manual_seed(0)
    random.seed(0)
    index = open_dataset(args.data, "train")
    function = collate(args.recipe, args.size)
    ours = Ours(index, args.recipe, args.size, function)
    plain = Plain(index, args.recipe, args.size, function.scales)
    stream = chunks(len(index), args.batch)
    runs = {"plain": plain.batch, "detrkit": ours.batch}
    result: dict[str, Any] = {
        "data": str(args.data),
        "recipe": args.recipe,
        "size": args.size,
    }
    if args.cache:
        cached = Ours(index, args.recipe, args.size, function)
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        filled = cached.fill(args.cache, args.cache_size, Path(folder.name))
        runs["cached"] = cached.batch
        result["cache"] = {"bytes": filled.nbytes, "seconds": round(filled.seconds, 2)}
    times = measured(runs, stream, args.rounds)
    for name, values in times.items():
        ratios = [a / b for a, b in zip(times["plain"], values, strict=True)]
        result[name] = {
            "images_per_second_and_core": round(1 / statistics.median(values), 1),
            "ratio": round(statistics.median(ratios), 2),
            "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        }
    if args.json:
        json.dump(result, sys.stdout)
        return
    for name in times:
        rate, ratio, (low, high) = result[name].values()
        sys.stdout.write(f"{name:8} {rate:7.1f} images/s per core")
        sys.stdout.write(f"  {ratio:5.2f} x plain ({low} to {high})\n" if name != "plain" else "\n")
    if args.cache:
        size, duration = result["cache"].values()
        sys.stdout.write(
            f"cache    {size / 2**20:7.0f} MiB, filled in {duration} s by one thread\n"
        )


if __name__ == "__main__":
    main()
