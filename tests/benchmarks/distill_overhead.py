"""What a teacher costs: the time of a training step with and without distillation.

    python tests/benchmarks/distill_overhead.py [--student NAME] [--teacher NAME]

By default DEIMv2-Femto learns from D-FINE-N, about four times as large; random weights, batch 4,
320², two threads. Rows are `--mode feature`, `logit`, `both` and both with shared queries. Steps of
all rows alternate, so that other programs slow all of them alike; the table shows medians.
"teacher" is its forward pass alone, "losses" what remains of the difference. On a GPU the host does
not wait for the teacher; on a CPU the loader's processes go on while the teacher computes, and
nothing else does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from detrkit.config import load_config
from detrkit.distillation.distiller import Distiller
from detrkit.distillation.layout import pair_maps
from detrkit.distillation.losses.pkd import PKD
from detrkit.distillation.schedule import Window
from detrkit.distillation.taps import stages_of
from detrkit.distillation.teacher import DetectorTeacher, Respec
from detrkit.distillation.terms import FeatureTerm, LogitLosses
from detrkit.engine.parts import build_criterion, build_model
from detrkit.models.detector import Detector
from detrkit.structures import Batch, ImageSpec
from tests.benchmarks.train_step import make_batch

#: Feature maps, detections, shared queries per image.
ROWS = {
    "alone": (False, False, 0),
    "feature": (True, False, 0),
    "logit": (False, True, 0),
    "both": (True, True, 0),
    "both, 100 probes": (True, True, 100),
}


def distiller_of(
    student: nn.Module, teacher: Detector, size: tuple[int, int], row: str
) -> Distiller | None:
    """The distillation of a row, its window open; None: the student is alone."""
    features, logits, probes = ROWS[row]
    if not (features or logits):
        return None
    classes = torch.arange(80)
    pairs = []
    if features:
        own, other = (stages_of(m, ["encoder"], size)["encoder"] for m in (student, teacher))
        pairs = pair_maps(own, other, size, size)
    terms = nn.ModuleList([FeatureTerm("pkd", 6.0, pairs, PKD)] if features else [])
    spec = ImageSpec(size)
    taught = DetectorTeacher(
        teacher, Respec(spec, spec), classes, [pair.teacher for pair in pairs], probes > 0
    )
    distiller = Distiller(
        lambda: (taught, LogitLosses(classes) if logits else None),
        Window(0, 1),
        terms,
        probes=probes,
        ratio_every=0,
    )
    distiller.begin_epoch(0)
    return distiller


def measure(student_name: str, teacher_name: str, given: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a step of each row, and of the teacher's forward pass."""
    size = (given.size, given.size)
    update = [f"image_size={given.size}"]
    student_config = load_config(student_name, update=update)
    model = build_model(student_config, seed=0).train()
    criterion = build_criterion(student_config).train()
    teacher = build_model(load_config(teacher_name, update=update), seed=1)
    assert isinstance(teacher, Detector)
    counts = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (model, teacher)]
    teacher = teacher.deploy()
    distillers = {row: distiller_of(model, teacher, size, row) for row in ROWS}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    images, targets = make_batch(given.batch, size, given.boxes, 80)
    times: dict[str, list[float]] = defaultdict(list)

    def step(distiller: Distiller | None) -> None:
        if distiller is None:
            losses: dict[str, Any] = criterion(model(images, targets), targets)
        else:
            distiller.begin_step(0.0, 1)
            with distiller.watching(model):
                outputs = model(images, targets)
            losses = criterion(outputs, targets)
            losses = distiller.add(model, Batch(images, targets), outputs, losses)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for number in range(given.steps + 1):
        for row, distiller in distillers.items():
            started = time.perf_counter()
            step(distiller)
            if number:  # the first warms up
                times[row].append(time.perf_counter() - started)
        started = time.perf_counter()
        with torch.no_grad():
            teacher(images)
        if number:
            times["teacher"].append(time.perf_counter() - started)
    print(
        f"{student_name} ({counts[0]:.2f} M) learns from {teacher_name} ({counts[1]:.2f} M, "
        f"{counts[1] / counts[0]:.1f} x), batch {given.batch}, {given.size}²"
    )
    return {row: statistics.median(values) for row, values in times.items()}


def main() -> None:
    """Prints a table for each pair."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--student", default="deimv2_femto_coco")
    parser.add_argument("--teacher", default="dfine_n_coco")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--boxes", type=int, default=10)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found = measure(given.student, given.teacher, given)
    alone, forward = found["alone"], found["teacher"]
    for row in ROWS:
        more = found[row] - alone
        rest = f"  losses {1000 * (more - forward):7.0f} ms" if row != "alone" else ""
        print(f"  {row:<18}{1000 * found[row]:8.0f} ms {more / alone:+8.0%}{rest}")
    print(f"  {'teacher forward':<18}{1000 * forward:8.0f} ms {forward / alone:8.0%}")


if __name__ == "__main__":
    main()
