"""What a benchmark found, and how sure it is. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from detrkit.engine.benchmarking.breakdown import Breakdown

#: Draws of rounds for an interval.
SAMPLES = 2000
#: Share of the draws within it.
CONFIDENCE = 0.95

#: Timed calls, round by round: seconds.
Rounds = Sequence[Sequence[float]]


@dataclass(frozen=True)
class BatchTimes:
    """One candidate at one batch size.

    Attributes:
        batch: images per call.
        calls: that were timed.
        p50, p90, p99: milliseconds of a call; p99 of fewer than a hundred calls is the slowest.
        images_per_second: of all timed calls together.
        peak_bytes: most memory of its process while this batch size was measured; None where
            the system does not tell.
    """

    batch: int
    calls: int
    p50: float
    p90: float
    p99: float
    images_per_second: float
    peak_bytes: int | None = None

    @classmethod
    def of(cls, batch: int, rounds: Rounds, peak_bytes: int | None) -> BatchTimes:
        """The numbers of timed calls."""
        times = np.array([seconds for each in rounds for seconds in each]) * 1000
        p50, p90, p99 = np.percentile(times, [50, 90, 99], method="higher")
        speed = 1000 * batch * len(times) / float(times.sum())
        return cls(batch, len(times), float(p50), float(p90), float(p99), speed, peak_bytes)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the first candidate, at one batch size.

    Attributes:
        batch: images per call.
        value: the first one's median time over this one's.
        low, high: where it lies with 95 %, by a bootstrap over the rounds, in each of which all
            took their turn.
    """

    batch: int
    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`faster`, `slower`, or `may be chance`."""
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else "may be chance"

    @classmethod
    def of(cls, batch: int, first: Rounds, other: Rounds, seed: int = 0) -> Ratio:
        """Compares rounds that took turns.

        Args:
            batch: images per call.
            first, other: equally many rounds.
            seed: of the draws.
        """
        theirs = np.array([np.median(each) for each in first])
        mine = np.array([np.median(each) for each in other])
        picks = np.random.default_rng(seed).integers(len(mine), size=(SAMPLES, len(mine)))
        drawn = np.median(theirs[picks], axis=1) / np.median(mine[picks], axis=1)
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = np.percentile(drawn, [tail, 100 - tail])
        return cls(batch, float(np.median(theirs) / np.median(mine)), float(low), float(high))


@dataclass
class Measured:
    """One candidate.

    Attributes:
        name, source: of the candidate.
        runtime: what computed, with its version: `ONNX Runtime 1.20, CPU`.
        device: where.
        precision: of the arithmetic: "fp32", "fp16", "bf16", "int8".
        size: (h, w) of the input.
        threads: of the CPU.
        transfer: whether moving data to and from the device is part of the times, in words.
        start: seconds of opening and of the first call, apart.
        idle_bytes: memory of its process before the model was opened.
        batches: by batch size.
        ratios: to the first candidate; empty for it.
        left_out: batch size -> why it was not measured.
        file_bytes, parameters, gflops: None where not known.
        ap, ap50: on `--data`; None without it.
        notes: warnings.
        breakdown: where its time goes; None where nobody asked.
    """

    name: str
    source: str
    runtime: str
    device: str
    precision: str
    size: tuple[int, int]
    threads: int
    transfer: str
    start: dict[str, float]
    idle_bytes: int | None
    batches: list[BatchTimes] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    file_bytes: int | None = None
    parameters: int | None = None
    gflops: float | None = None
    ap: float | None = None
    ap50: float | None = None
    notes: list[str] = field(default_factory=list)
    breakdown: Breakdown | None = None

    def at(self, batch: int) -> BatchTimes | None:
        """Its times at a batch size."""
        return next((times for times in self.batches if times.batch == batch), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **asdict(self),
            "ratios": [{**asdict(ratio), "verdict": ratio.verdict} for ratio in self.ratios],
            "breakdown": None if self.breakdown is None else self.breakdown.to_dict(),
        }


@dataclass
class Benchmark:
    """All candidates and their circumstances.

    Attributes:
        includes: what the times are of: "model" or "all".
        batches: sizes that were asked for.
        rounds: turns of each candidate at each batch size.
        picture: (h, w) of the pictures, where preprocessing is part of the times.
        data: what the APs are of, in words.
        setting: machine, versions, clocks.
        candidates: in the order of the command line.
        warnings: what makes the times doubtful.
    """

    includes: str
    batches: list[int]
    rounds: int
    picture: tuple[int, int] | None
    data: str | None
    setting: dict[str, Any]
    candidates: list[Measured] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def meaning(self) -> str:
        """What the times are of, in a sentence."""
        if self.includes == "all":
            height, width = self.picture or (0, 0)
            return (
                f"Times are of everything but reading files: {height} x {width} pictures of "
                f"uint8 in memory to detections, with resizing, transfer and postprocessing."
            )
        return (
            "Times are of the model with its selection of the best detections: float32 input that "
            "is prepared to labels, boxes and scores in the memory of the CPU; without reading, "
            "resizing and normalising."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "includes": self.includes,
            "meaning": self.meaning,
            "batches": self.batches,
            "rounds": self.rounds,
            "confidence": CONFIDENCE,
            "picture": self.picture,
            "data": self.data,
            "setting": self.setting,
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "warnings": self.warnings,
        }
