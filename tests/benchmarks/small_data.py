"""Fine-tuning on few images: `schedule: auto` against the file's own schedule, and other flags.

    python tests/benchmarks/small_data.py --data DIR --weights FILE [--images 60] [--epochs 12]

Each row trains from the same weights on the same images with the same batch, size and seeds:

- auto:  `detrkit tune … --epochs N`, which derives stages, warm-up and averaging;
- plain: the file as it is, with only its count of epochs changed (`--update epochs=N`);
- `--also "NAME: FLAGS"` adds rows with further flags of `tune`, on top of auto;
- `--flags=FLAGS` gives flags to all rows.

`--images N` takes N images of each split (`detrkit convert sample`, seed 0). The table shows AP of
the best epoch and of the last one on the validation split, per seed and on average. Runs are
separate processes, one after the other; results are kept in `--output`, and a row that is there is
not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import NamedTuple


class Reached(NamedTuple):
    """What one run reached."""

    best: float
    best_50: float
    last: float
    epoch: int
    seconds: float


def detrkit(*arguments: object) -> str:
    """Runs the command line; its standard output."""
    command = [sys.executable, "-m", "detrkit", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}")
    return done.stdout


def sampled(data: Path, images: int | None, output: Path) -> Path:
    """`data`, or a folder with so many images of each split of it."""
    if images is None:
        return data
    folder = output / f"data-{images}"
    if not folder.exists():
        detrkit("convert", "sample", data, "-n", images, "-o", folder)
    return folder


def train(data: Path, given: argparse.Namespace, name: str, flags: list[str], seed: int) -> Reached:
    """One run; read from its folder if it was done before."""
    folder = given.output / f"{name}-{seed}"
    result = folder / "result.json"
    if not result.exists():
        printed = detrkit(
            "tune", given.config, "-w", given.weights, "--data", data, "--size", given.size,
            "--batch", given.batch, "--seed", seed, "-j", given.workers, "--cache", "ram",
            "-o", folder, "--json", *shlex.split(given.flags), *flags,
        )  # fmt: skip
        result.write_text(printed, encoding="utf-8")
    reached = json.loads(result.read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (folder / "log.jsonl").open(encoding="utf-8")]
    return Reached(
        best=reached["metrics"]["AP"],
        best_50=reached["metrics"]["AP50"],
        last=rows[-1]["val/AP"],
        epoch=reached["best_epoch"],
        seconds=reached["seconds"],
    )


def main() -> None:
    """Trains every row and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--config", default="deimv2_hgnetv2_atto_custom")
    parser.add_argument("--images", type=int, help="of each split; default all")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", default="320")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rows", nargs="*", default=["plain", "auto"])
    parser.add_argument("--flags", default="", help="of all rows")
    parser.add_argument("--also", action="append", default=[], metavar="'NAME: FLAGS'")
    parser.add_argument("--output", type=Path, default=Path("small_data"))
    given = parser.parse_args()

    given.output.mkdir(parents=True, exist_ok=True)
    data = sampled(given.data, given.images, given.output)
    auto = ["--epochs", str(given.epochs)]
    known = {"plain": ["--update", f"epochs={given.epochs}"], "auto": auto}
    rows = {name: known[name] for name in given.rows}
    for row in given.also:
        name, _, flags = row.partition(":")
        rows[name.strip()] = [*auto, *shlex.split(flags)]

    print(f"{'':<16}{'seed':>5}{'AP':>8}{'AP50':>8}{'last AP':>9}{'best epoch':>12}{'time':>8}")
    for name, flags in rows.items():
        runs = [train(data, given, name, flags, seed) for seed in given.seeds]
        for seed, run in zip(given.seeds, runs, strict=True):
            print(
                f"{name:<16}{seed:>5}{run.best:>8.3f}{run.best_50:>8.3f}{run.last:>9.3f}"
                f"{run.epoch:>12}{run.seconds:>6.0f} s",
                flush=True,
            )
        if len(runs) > 1:
            best, best_50, last, _, seconds = map(mean, zip(*runs, strict=True))
            print(
                f"{name:<16}{'mean':>5}{best:>8.3f}{best_50:>8.3f}{last:>9.3f}"
                f"{'':>12}{seconds:>6.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
