"""Lets candidates take turns, and counts. Imports no torch: the candidates' processes do."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from detrkit.engine.benchmarking.candidates import Candidate
from detrkit.engine.benchmarking.report import BatchTimes, Benchmark, Measured, Ratio
from detrkit.engine.benchmarking.setting import Others, busy_before, busy_meanwhile, setting
from detrkit.engine.benchmarking.worker import WorkerSettings, serve
from detrkit.engine.machine import look
from detrkit.errors import DetrkitError, UsageError

#: Pictures that preprocessing starts from: COCO's usual size.
PICTURE = (480, 640)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """How candidates are measured.

    Attributes:
        batches: images per call.
        rounds: turns of each candidate at each batch size.
        seconds: of timed calls per candidate and batch size, over all rounds.
        repeats: timed calls per turn, instead of seconds.
        warm_up: seconds of calls before, per candidate and batch size.
        threads: of the CPU; None: as many as there are cores.
        device: None: the best for each kind of file.
        size: (h, w) of the input; None: as each file says.
        includes: "model", or "all": preprocessing as well.
        data, split: a data set for AP; None: no AP.
        depth: of the layers that candidates are taken apart into; None: they are not.

    Raises:
        UsageError: a number that makes no sense.
    """

    batches: Sequence[int] = (1,)
    rounds: int = 10
    seconds: float = 5.0
    repeats: int | None = None
    warm_up: float = 1.0
    threads: int | None = None
    device: str | None = None
    size: tuple[int, int] | None = None
    includes: str = "model"
    data: str | None = None
    split: str | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        if self.includes not in ("model", "all"):
            raise UsageError(f"--includes {self.includes}: choose model or all")
        if not self.batches or min(self.batches) < 1:
            raise UsageError("batch sizes must be at least 1", hint="e.g. --batches 1,8")
        numbers = (self.rounds, self.repeats or 1, self.threads or 1)
        if min(numbers) < 1 or self.seconds < 0 or self.warm_up < 0:
            raise UsageError("rounds, repeats and threads must be at least 1, seconds positive")


class Process:
    """A candidate in a process of its own.

    Args:
        candidate: what it opens.
        settings: the same for all.
    """

    def __init__(self, candidate: Candidate, settings: WorkerSettings) -> None:
        self.candidate = candidate
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=serve, args=(other, candidate, settings), daemon=True
        )
        self._process.start()
        other.close()

    def ask(self, name: str, *arguments: Any) -> Any:
        """What a method of `Worker` answers.

        Raises:
            DetrkitError: what went wrong there, with its exit code.
        """
        try:
            self._pipe.send((name, arguments))
            well, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            raise DetrkitError(
                f"{self.candidate.name}: its process ended (exit code {self._process.exitcode})",
                hint="most often memory is short: measure smaller batches",
            ) from None
        if well:
            return answer
        message, hint, code = answer
        error = DetrkitError(f"{self.candidate.name}: {message}", hint=hint)
        error.exit_code = code
        raise error

    def close(self) -> None:
        """Ends it."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def benchmark(
    candidates: Sequence[Candidate], plan: Plan, progress: Progress | None = None
) -> Benchmark:
    """Measures candidates side by side.

    Args:
        candidates: the first is what the others are compared with.
        plan: how.
        progress: called with (turns done, turns).

    Raises:
        DetrkitError: a candidate cannot be opened or run; it is named.
    """
    machine = look()
    found = Benchmark(
        plan.includes,
        list(plan.batches),
        plan.rounds,
        PICTURE if plan.includes == "all" else None,
        None,
        setting(),
        warnings=[text for text in [busy_before(machine)] if text],
    )
    settings = WorkerSettings(plan.threads or machine.cores, plan.device, plan.size, found.picture)
    quality: dict[str, dict[str, Any]] = {}
    if plan.data is not None:  # first: data that do not fit are found before the long work
        quality = _qualities(candidates, settings, plan.data, plan.split)
        found.data = next((each["data"] for each in quality.values()), None)
    with _processes(candidates, settings) as processes:
        for process in processes:
            known = process.ask("open")
            found.candidates.append(
                Measured(process.candidate.name, process.candidate.source, **known)
            )
        others, own = Others(), _cpu_seconds(processes)
        done, rounds = count(1), len(plan.batches) * plan.rounds

        def after_round() -> None:
            if progress is not None:
                progress(next(done), rounds)

        for batch in plan.batches:
            _measure(processes, found.candidates, batch, plan, after_round)
        spent = [now - before for now, before in zip(_cpu_seconds(processes), own, strict=True)]
        warning = busy_meanwhile(others.share(spent))
        found.warnings += [warning] if warning else []
        found.setting["after"] = {k: v for k, v in setting().items() if k in ("mhz", "gpus")}
        for process, measured in zip(processes, found.candidates, strict=True):
            if plan.depth is not None and measured.batches:
                smallest = measured.batches[0].batch
                measured.breakdown = process.ask("take_apart", smallest, plan.depth, plan.seconds)
            for name, value in process.ask("cost").items():
                setattr(measured, name, value)
            if measured.name in quality:
                measured.ap, measured.ap50 = (quality[measured.name][n] for n in ("ap", "ap50"))
            elif plan.data is not None:
                measured.notes.append("no AP: its weights are random")
    return found


def _qualities(
    candidates: Sequence[Candidate], settings: WorkerSettings, data: str, split: str | None
) -> dict[str, dict[str, Any]]:
    """Name -> AP, of those with weights of their own; in processes that are not measured."""
    found = {}
    for candidate in candidates:
        if not candidate.is_config:
            with _processes([candidate], settings) as (process,):
                process.ask("open")
                found[candidate.name] = process.ask("evaluate", data, split)
    return found


def _measure(
    processes: Sequence[Process],
    measured: Sequence[Measured],
    batch: int,
    plan: Plan,
    after_round: Callable[[], None],
) -> None:
    """All candidates at one batch size."""
    taking: list[tuple[Process, Measured]] = []
    for process, result in zip(processes, measured, strict=True):
        reason = process.ask("refusal", batch)
        if reason is None:
            process.ask("warm_up", batch, plan.warm_up)
            taking.append((process, result))
        else:
            result.left_out[batch] = reason
    rounds: dict[str, list[list[float]]] = {result.name: [] for _, result in taking}
    for _ in range(plan.rounds):
        for process, result in taking:
            times = process.ask("turn", batch, plan.seconds / plan.rounds, plan.repeats)
            rounds[result.name].append(times)
        after_round()
    first = measured[0].name
    for process, result in taking:
        own = rounds[result.name]
        result.batches.append(BatchTimes.of(batch, own, process.ask("peak")))
        if result.name != first and first in rounds:
            result.ratios.append(Ratio.of(batch, rounds[first], own))


@contextmanager
def _processes(
    candidates: Sequence[Candidate], settings: WorkerSettings
) -> Iterator[list[Process]]:
    with ExitStack() as stack:
        processes = []
        for candidate in candidates:
            process = Process(candidate, settings)
            stack.callback(process.close)
            processes.append(process)
        yield processes


def _cpu_seconds(processes: Sequence[Process]) -> list[float]:
    return [*(process.ask("cpu_seconds") for process in processes), time.process_time()]
