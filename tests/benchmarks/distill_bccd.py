"""Distillation on BCCD: a student with and without a teacher, the same budget, several seeds.

    python tests/benchmarks/distill_bccd.py --data DIR [--epochs 16] [--seeds 0 1 2]
    python tests/benchmarks/distill_bccd.py --data DIR --teacher-config deimv2_atto_custom \
        --weights FILE --student deimv2_atto_custom

The teacher is a D-FINE-S, trained first from random weights (`--teacher-config`) or tuned
(`--weights`), or any checkpoint (`--teacher`). The student is a D-FINE-N from random weights
(`--student`), or fine-tuned from weights of its own (`--tune`). Trained on `trainval`, measured on
`test` (AP of the best epoch, averaged weights), as the other figures on BCCD. A row is a name and
the flags of `detrkit distill`; "alone" is `detrkit train`. Seeds go round before rows repeat, so
that a table cut short is even. Results are kept in `--output`, and a run that is there is not
trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

#: Flags of `detrkit distill` by row; None: no teacher.
ROWS: dict[str, str | None] = {
    "alone": None,
    "both": "",
    "logit": "--mode logit",
    "feature": "--mode feature",
    "probes": "--mode logit --probes 100",
}
SPLITS = ("-u", "train_split=trainval", "-u", "val_split=test")


def detrkit(*arguments: object) -> dict[str, Any]:
    """Runs a command with `--json`; what it prints."""
    command = [sys.executable, "-m", "detrkit", *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def common(given: argparse.Namespace) -> list[object]:
    """Flags of all runs."""
    return [
        "--data", given.data, "--size", given.size, "-j", given.workers, "--cache", "ram", *SPLITS,
    ]  # fmt: skip


def teacher_of(given: argparse.Namespace) -> Path:
    """The teacher's checkpoint; trains it where there is none."""
    if given.teacher is not None:
        return Path(given.teacher)
    folder = given.output / "teacher"
    if not (folder / "result.json").exists():
        weights = ["-w", given.weights] if given.weights else []
        found = detrkit(
            "tune" if weights else "train", given.teacher_config, *weights, "--seed", 0,
            "--epochs", given.teacher_epochs, "--batch", given.batch, "-o", folder,
            *common(given), *shlex.split(given.flags),
        )  # fmt: skip
        (folder / "result.json").write_text(json.dumps(found), encoding="utf-8")
    found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    print(f"teacher: AP {found['metrics']['AP']:.3f}", flush=True)
    return Path(found["best"])


def reached(given: argparse.Namespace, row: str, seed: int, teacher: Path) -> dict[str, Any]:
    """What one run reached; read from its folder if it was done before."""
    folder = given.output / f"{row}-{seed}"
    result = folder / "result.json"
    if not result.exists():
        flags = ROWS[row] if row in ROWS else given.also[row]
        learns = (
            ["train", given.student]
            if flags is None
            else ["distill", given.student, "-tw", teacher, "--no-preflight", *shlex.split(flags)]
        )
        tune = ["--tune", given.tune] if given.tune else []
        found = detrkit(
            *learns, *tune, "--epochs", given.epochs, "--batch", given.batch, "--seed", seed,
            "-o", folder, *common(given), *shlex.split(given.flags),
        )  # fmt: skip
        result.write_text(json.dumps(found), encoding="utf-8")
    found = json.loads(result.read_text(encoding="utf-8"))
    return {
        "AP": found["metrics"]["AP"],
        "AP50": found["metrics"]["AP50"],
        "seconds": found["seconds"],
    }


def main() -> None:
    """Trains every row and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher-config", default="dfine_s_custom")
    parser.add_argument("--weights", type=Path, help="the teacher starts from")
    parser.add_argument("--teacher", type=Path, help="a checkpoint, instead of training one")
    parser.add_argument("--teacher-epochs", type=int, default=40)
    parser.add_argument("--student", default="dfine_n_custom")
    parser.add_argument("--tune", help="weights that the student starts from")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", default="224")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=["alone", "both"])
    parser.add_argument("--also", action="append", default=[], metavar="'NAME: FLAGS'")
    parser.add_argument("--flags", default="-u HGNetv2.pretrained=False", help="of all runs")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("distill_bccd"))
    given = parser.parse_args()
    given.also = {n.strip(): f for n, _, f in (row.partition(":") for row in given.also)}
    given.output.mkdir(parents=True, exist_ok=True)
    teacher = teacher_of(given)
    rows = [*given.rows, *given.also]
    found: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
    print(f"{'':<12}{'seed':>5}{'AP':>8}{'AP50':>8}{'time':>9}")
    for seed in given.seeds:
        for row in rows:
            run = reached(given, row, seed, teacher)
            found[row].append(run)
            print(
                f"{row:<12}{seed:>5}{run['AP']:>8.3f}{run['AP50']:>8.3f}{run['seconds']:>7.0f} s",
                flush=True,
            )
    for row, runs in found.items():
        values = [run["AP"] for run in runs]
        spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
        seconds = mean(run["seconds"] for run in runs)
        print(f"{row:<12}{'mean':>5}{mean(values):>8.3f}{spread}{seconds:>9.0f} s")


if __name__ == "__main__":
    main()
