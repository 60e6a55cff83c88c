"""Where the time of a training step goes: forward, loss with matching, backward, optimizer.

    python tests/benchmarks/train_step.py [CONFIG …]

A config is a catalogue name (`deimv2_hgnetv2_n_coco`) or a file, of any family. Batch 4, the
config's image size, 60 boxes per image, two threads, AdamW. "loss" is the criterion's own time:
its forward, matching included, and its backward, which is measured on detached outputs and taken
off the step's backward. Phases alternate within each step, so that other programs slow all of
them alike; the table shows the median wall-clock time and the share of it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from detrkit.config import Config, load_config
from detrkit.engine.parts import build_criterion, build_model
from detrkit.structures import Target

#: One of each family: D-FINE, DEIM on D-FINE and on RT-DETRv2, RT-DETRv2, DEIMv2.
CONFIGS = (
    "dfine_hgnetv2_n_coco",
    "dfine_hgnetv2_s_coco",
    "deim_hgnetv2_n_coco",
    "deim_r18vd_120e_coco",
    "rtdetrv2_r18vd_120e_coco",
    "deimv2_hgnetv2_n_coco",
)


def make_batch(
    batch: int, size: tuple[int, int], boxes: int, classes: int
) -> tuple[Tensor, list[Target]]:
    """Noise of `size` (h, w) with boxes of all sizes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, *size, generator=generator)
    targets = []
    for image in range(batch):
        extent = torch.rand(boxes, 2, generator=generator) * 0.3 + 0.02
        centre = extent / 2 + torch.rand(boxes, 2, generator=generator) * (1 - extent)
        labels = torch.randint(0, classes, (boxes,), generator=generator)
        targets.append(Target(torch.cat((centre, extent), dim=-1), labels, image_id=image))
    return images, targets


def detached(outputs: Any, seen: dict[int, Tensor]) -> Any:
    """Copies the structure with leaves that want gradients; a tensor in two places stays one."""
    if isinstance(outputs, Tensor):
        if id(outputs) not in seen:
            seen[id(outputs)] = outputs.detach().requires_grad_(outputs.requires_grad)
        return seen[id(outputs)]
    if isinstance(outputs, dict):
        return {key: detached(value, seen) for key, value in outputs.items()}
    if isinstance(outputs, list | tuple):
        return type(outputs)(detached(value, seen) for value in outputs)
    return outputs


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def measure(cfg: Config, size: tuple[int, int], options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each phase at an image size (h, w)."""
    torch.manual_seed(0)
    model, criterion = build_model(cfg).train(), build_criterion(cfg).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    images, targets = make_batch(options.batch, size, options.boxes, cfg.run.num_classes)
    epoch = options.epoch
    times = defaultdict(list)
    for step in range(options.steps + 1):
        clock = [time.perf_counter()]
        outputs = model(images, targets)
        clock.append(time.perf_counter())
        loss = total(criterion(outputs, targets, epoch))
        clock.append(time.perf_counter())
        loss.backward()
        clock.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.append(time.perf_counter())

        alone = total(criterion(detached(outputs, {}), targets, epoch))
        clock.append(time.perf_counter())
        alone.backward()
        clock.append(time.perf_counter())
        criterion.match(outputs, targets, epoch)
        clock.append(time.perf_counter())
        if step == 0:
            continue  # warm-up
        forward, judge, backward, update, _, judge_backward, match = (
            b - a for a, b in pairwise(clock)
        )
        times["forward"].append(forward)
        times["loss"].append(judge + judge_backward)
        times["backward"].append(backward - judge_backward)
        times["optimizer"].append(update)
        times["(matching)"].append(match)
    return {phase: statistics.median(values) for phase, values in times.items()}


def main() -> None:
    """Prints one table per config."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("configs", nargs="*", default=CONFIGS, metavar="CONFIG")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, help="side of the images; default: the config's")
    parser.add_argument("--boxes", type=int, default=60)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epoch", type=int, default=0, help="late: the matcher may have changed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.configs:
        cfg = load_config(name)
        height, width = (options.size, options.size) if options.size else cfg.run.eval_spatial_size
        times = measure(cfg, (height, width), options)
        step = sum(seconds for phase, seconds in times.items() if phase != "(matching)")
        sys.stdout.write(
            f"{name}: batch {options.batch}, {height} × {width}, {options.boxes} boxes per image, "
            f"{options.threads} threads\n"
        )
        for phase, seconds in {**times, "step": step}.items():
            sys.stdout.write(f"  {phase:12s} {1000 * seconds:9.1f} ms {seconds / step:7.1%}\n")


if __name__ == "__main__":
    main()
