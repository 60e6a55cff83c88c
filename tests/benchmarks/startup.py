"""How long the command line takes to answer, and whether it stays light.

    python tests/benchmarks/startup.py [runs]

Prints the median and the fastest wall-clock time of fresh processes; a bare Python is the floor.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import detrkit": ["-c", "import detrkit"],
    "detrkit --version": ["-m", "detrkit", "--version"],
    "detrkit --help": ["-m", "detrkit", "--help"],
    "detrkit train --help": ["-m", "detrkit", "train", "--help"],
    "import torch": ["-c", "import torch"],
}


def measure(arguments: list[str], runs: int) -> list[float]:
    """Seconds of each run."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return times


def main() -> None:
    """Prints the table and fails when `--help` imports torch."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    for name, arguments in COMMANDS.items():
        times = measure(arguments, runs)
        sys.stdout.write(
            f"{name:24s} median {statistics.median(times):.3f} s  fastest {min(times):.3f} s\n"
        )
    check = (
        "import sys; from detrkit.cli.app import main; main(['--help']);"
        "heavy = {'torch', 'numpy', 'PIL', 'scipy', 'transformers'} & set(sys.modules);"
        "sys.exit(f'--help imports {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", check], check=True, stdout=subprocess.DEVNULL)
    sys.stdout.write("detrkit --help leaves torch, numpy, PIL and scipy unimported\n")


if __name__ == "__main__":
    main()
