"""Images per second and core: detrkit's data pipeline against plain Pillow and torchvision v2.

    python tests/benchmarks/data.py ../shared/data/bccd

Both run the D-FINE recipe on the same images in this process on one thread, in turns, from the
file to a float32 batch; `process_time` counts, so other programs disturb little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.transforms.v2 as T
from PIL import Image
from torchvision import tv_tensors
from torchvision.ops import box_convert
from torchvision.transforms.v2 import functional as TF

from detrkit.data import BatchImageCollateFunction, Compose, DetectionDataset, open_dataset
from detrkit.data.index import DatasetIndex
from detrkit.data.pixels import use_one_thread
from detrkit.data.sample import SampleKey

STRONG = ("RandomPhotometricDistort", "RandomZoomOut", "RandomIoUCrop")


def recipe(size: int) -> list[dict[str, Any]]:
    """The transforms of the D-FINE configurations."""
    return [
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


class Plain:
    """Pillow images through torchvision's v2 transforms."""

    def __init__(self, index: DatasetIndex, size: int, scales: list[tuple[int, int]]) -> None:
        self.index = index
        self.scales = scales
        self.ops = [
            T.RandomPhotometricDistort(p=0.5),
            T.RandomZoomOut(fill=0),
            lambda *x: T.RandomIoUCrop()(*x) if torch.rand(1) < 0.8 else x,
            T.SanitizeBoundingBoxes(min_size=1),
            T.RandomHorizontalFlip(),
            T.Resize(size=[size, size]),
            T.SanitizeBoundingBoxes(min_size=1),
        ]

    def sample(self, number: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        image = Image.open(self.index.paths[number]).convert("RGB")
        rows = self.index.boxes_of(number)
        boxes = torch.from_numpy(self.index.boxes_xyxy[rows])
        h, w = image.height, image.width
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(h, w)),
            "labels": torch.from_numpy(self.index.labels[rows]),
        }
        for op in self.ops:
            image, target = op(image, target)
        pixels = TF.pil_to_tensor(image).float() / 255.0
        h, w = pixels.shape[-2:]
        target["boxes"] = box_convert(target["boxes"], "xyxy", "cxcywh") / torch.tensor(
            [w, h, w, h]
        )
        return pixels, target

    def batch(self, step: int, numbers: list[int]) -> tuple[torch.Tensor, list[Any]]:
        items = [self.sample(number) for number in numbers]
        images = torch.cat([item[0][None] for item in items])
        size = self.scales[int(torch.randint(len(self.scales), (1,)))]
        return F.interpolate(images, size=size), [item[1] for item in items]


class Ours:
    """detrkit's data set and collate function."""

    def __init__(self, index: DatasetIndex, size: int, collate: BatchImageCollateFunction) -> None:
        policy = {"name": "stop_epoch", "epoch": 72, "ops": list(STRONG)}
        self.dataset = DetectionDataset(index, Compose(recipe(size), policy))
        self.collate = collate

    def batch(self, step: int, numbers: list[int]) -> Any:
        return self.collate([self.dataset[SampleKey(0, step, number)] for number in numbers])


def chunks(count: int, batch: int) -> Iterator[tuple[int, list[int]]]:
    numbers = cycle(range(count))
    return ((step, list(islice(numbers, batch))) for step in range(1 << 30))


def seconds(run: Callable[[int, list[int]], Any], parts: list[tuple[int, list[int]]]) -> float:
    """CPU seconds per image."""
    start = time.process_time()
    for step, numbers in parts:
        run(step, numbers)
    return (time.process_time() - start) / sum(len(numbers) for _, numbers in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a data set of any known layout")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=8, help="of 5 batches for each pipeline")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    use_one_thread()
    torch.manual_seed(0)
    index = open_dataset(args.data, "train")
    collate = BatchImageCollateFunction(base_size=args.size, base_size_repeat=3, stop_epoch=72)
    ours = Ours(index, args.size, collate)
    plain = Plain(index, args.size, collate.scales)
    stream = chunks(len(index), args.batch)
    times: dict[str, list[float]] = {"plain": [], "detrkit": []}
    for turn in range(args.rounds + 1):
        parts = list(islice(stream, 5))
        pair = seconds(plain.batch, parts), seconds(ours.batch, parts)
        if turn:  # the first round warms up
            times["plain"].append(pair[0])
            times["detrkit"].append(pair[1])
    rates = {name: 1 / statistics.median(values) for name, values in times.items()}
    ratios = [a / b for a, b in zip(times["plain"], times["detrkit"], strict=True)]
    ratio = statistics.median(ratios)
    result = {
        "data": str(args.data),
        "size": args.size,
        "images_per_second_and_core": {k: round(v, 1) for k, v in rates.items()},
        "ratio": round(ratio, 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }
    if args.json:
        json.dump(result, sys.stdout)
        return
    for name, rate in rates.items():
        sys.stdout.write(f"{name:8} {rate:7.1f} images/s per core\n")
    low, high = result["ratio_range"]  # type: ignore[misc]
    sys.stdout.write(f"ratio    {ratio:7.2f} (of {args.rounds} rounds: {low} to {high})\n")


if __name__ == "__main__":
    main()
