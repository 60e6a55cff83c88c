"""How fast detectors are, side by side: what `detrkit benchmark` does.

Each candidate has a process of its own, so that its memory and its start are its own; they take
turns, so that what slows the machine slows all alike.
"""

from detrkit.engine.benchmarking.breakdown import Breakdown, shares
from detrkit.engine.benchmarking.candidates import Candidate, parse
from detrkit.engine.benchmarking.measure import Plan, benchmark
from detrkit.engine.benchmarking.report import BatchTimes, Benchmark, Measured, Ratio

__all__ = [
    "BatchTimes",
    "Benchmark",
    "Breakdown",
    "Candidate",
    "Measured",
    "Plan",
    "Ratio",
    "benchmark",
    "parse",
    "shares",
]
