"""A detector in the thread that loaded it and in others, with and without an idle OpenMP team.

    python -m tests.benchmarks.threads [--config dfine_hgnetv2_n_coco] [--threads 2]

Medians of a pass with one image. The runs take turns: the loading thread; another while the loading
thread's team is idle, as before `detrkit.engine.openmp`; another after `end_team`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from pathlib import Path

import torch

from detrkit.engine.allocator import keep_freed_memory
from detrkit.engine.openmp import end_team
from tests.benchmarks.inference import Case, Forward, ours


def passes(forward: Forward, count: int, seconds: list[float]) -> None:
    with torch.inference_mode():
        for turn in range(count + 2):
            started = time.perf_counter()
            forward()
            if turn > 1:  # the first ones pack kernels and start threads
                seconds.append(time.perf_counter() - started)


def elsewhere(forward: Forward, count: int, seconds: list[float]) -> None:
    thread = threading.Thread(target=passes, args=(forward, count, seconds))
    thread.start()
    thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="dfine_hgnetv2_n_coco")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    model, postprocessor, images, sizes = Case(args.config, Path(), None, args.threads).parts()
    forward = ours(model.deploy(fold_norms=True), postprocessor, images, sizes)
    taken: dict[str, list[float]] = {"loading thread": [], "another": [], "another, ended": []}
    for _ in range(args.rounds):
        passes(forward, 8, taken["loading thread"])
        elsewhere(forward, 8, taken["another"])
        end_team()
        elsewhere(forward, 8, taken["another, ended"])
    for name, seconds in taken.items():
        sys.stdout.write(f"{name:18}{statistics.median(seconds) * 1e3:8.1f} ms\n")


if __name__ == "__main__":
    main()
