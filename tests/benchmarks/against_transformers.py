"""Speed and memory of each family against the same model in transformers, in one run.

    pip install -e '.[hf]'
    python -m tests.benchmarks.against_transformers [CONFIG …]

Random weights, the config's image size, two threads, float32. Measured are the evaluation
forward (batch 1: transformers, ours, ours after `deploy()`) and a training step (batch 4 with
20 boxes per image: forward, losses with denoising, backward), in turns, so that other programs
slow both alike. A ratio above 1 says how many times faster detrkit is; memory is what a process
of its own needs at most, beyond what it needs with the model loaded.

transformers' DEIMv2 is not quite the authors' model (an extra linear layer and norm, ReLU for
SiLU), but the work is the same within a percent. Memory is measured on Linux only.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.config import Config, load_config
from detrkit.engine.conversion.hf_config import hf_config
from detrkit.engine.parts import build_criterion, build_model
from detrkit.errors import WeightsError
from detrkit.structures import Target
from tests.benchmarks.train_step import make_batch, total

CONFIGS = ("dfine_hgnetv2_n_coco", "rtdetrv2_r18vd_120e_coco", "deimv2_hgnetv2_n_coco")
CLASSES = {
    "d_fine": ("DFineConfig", "DFineForObjectDetection"),
    "rt_detr_v2": ("RTDetrV2Config", "RTDetrV2ForObjectDetection"),
    "deimv2": ("Deimv2Config", "Deimv2ForObjectDetection"),
}
Step = Callable[[], object]


def theirs(cfg: Config) -> nn.Module:
    """The model of transformers with random weights."""
    import transformers

    try:
        kind, values = hf_config(cfg)
    except WeightsError:
        # not the same model, but one of the same shape: D-FINE's settings with DEIMv2's switches
        like = cfg.name.replace("deimv2", "dfine")
        kind, values = "deimv2", {**hf_config(load_config(like))[1], "num_denoising": 100}
    config_class, model_class = (getattr(transformers, name) for name in CLASSES[kind])
    values |= {"freeze_backbone_batch_norms": False, "num_labels": 80}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model_class(config_class(**values))


def labels_of(targets: list[Target]) -> list[dict[str, Tensor]]:
    """Targets as transformers takes them."""
    return [{"class_labels": t.labels, "boxes": t.boxes_cxcywh} for t in targets]


def builders(cfg: Config, mode: str, batch: int, boxes: int) -> dict[str, Callable[[], Step]]:
    """For each side what builds its model and returns its step."""
    if mode == "train":
        images, targets = make_batch(batch, size_of(cfg), boxes, 80)
        return {
            "transformers": lambda: their_training(theirs(cfg).train(), images, targets),
            "detrkit": lambda: our_training(cfg, images, targets),
        }
    images = torch.rand(batch, 3, *size_of(cfg), generator=torch.Generator().manual_seed(0))
    return {
        "transformers": lambda: partial(theirs(cfg).eval(), images),
        "detrkit": lambda: partial(build_model(cfg).eval(), images),
        "deployed": lambda: partial(build_model(cfg).deploy(fold_norms=True), images),
    }


def their_training(model: nn.Module, images: Tensor, targets: list[Target]) -> Step:
    """Forward, losses and backward of transformers."""

    def step() -> None:
        model(pixel_values=images, labels=labels_of(targets)).loss.backward()
        model.zero_grad()

    return step


def our_training(cfg: Config, images: Tensor, targets: list[Target]) -> Step:
    """Forward, losses and backward of detrkit."""
    model, criterion = build_model(cfg).train(), build_criterion(cfg)

    def step() -> None:
        total(criterion(model(images, targets), targets)).backward()
        model.zero_grad()

    return step


def size_of(cfg: Config) -> tuple[int, int]:
    assert cfg.run.eval_spatial_size is not None
    height, width = cfg.run.eval_spatial_size
    return height, width


def seconds(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Median time of each, measured in turns after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if turn:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def peak(task: tuple[str, str, str, int, int, int]) -> float:
    """MiB that one side's step needs beyond the loaded model; runs in a process of its own."""
    name, mode, side, batch, boxes, threads = task
    torch.set_num_threads(threads)
    step = builders(load_config(name), mode, batch, boxes)[side]()
    status = Path("/proc/self/status")
    if not status.exists():
        return math.nan
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = kilobytes(status, "VmRSS")
    with torch.set_grad_enabled(mode == "train"):
        step()
        step()
    return (kilobytes(status, "VmHWM") - before) / 1024


def kilobytes(status: Path, key: str) -> int:
    """An entry of /proc/self/status."""
    return next(int(line.split()[1]) for line in status.open() if line.startswith(key))


def main() -> None:
    """Prints one table per config."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("configs", nargs="*", default=CONFIGS, metavar="CONFIG")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--boxes", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(options.threads)
    # A fresh process for each memory figure: the peak of a process never falls.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        compare(options, pool)


def compare(options: argparse.Namespace, pool: Any) -> None:
    """Measures all configs; `pool` runs the memory figures."""
    for name in options.configs:
        cfg = load_config(name)
        sys.stdout.write(f"{name}: {size_of(cfg)[0]} × {size_of(cfg)[1]}\n")
        for mode in ("eval", "train"):
            batch = 1 if mode == "eval" else options.batch
            sides = builders(cfg, mode, batch, options.boxes)
            steps = {side: build() for side, build in sides.items()}
            with torch.set_grad_enabled(mode == "train"):
                times = seconds(steps, options.repeats)
            for side, value in times.items():
                task = (name, mode, side, batch, options.boxes, options.threads)
                memory = pool.map(peak, [task], chunksize=1)[0]
                sys.stdout.write(
                    f"  {mode:5s} batch {batch}  {side:12s} {1000 * value:9.1f} ms"
                    f"  {times['transformers'] / value:5.2f}×  {memory:7.0f} MiB\n"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
