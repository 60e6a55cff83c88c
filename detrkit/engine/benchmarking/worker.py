"""The process of one candidate: opens it, and does its turns when it is told to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from detrkit.engine.benchmarking.breakdown import Breakdown
from detrkit.engine.benchmarking.candidates import Candidate
from detrkit.errors import DetrkitError


@dataclass(frozen=True)
class WorkerSettings:
    """The same for all candidates.

    Attributes:
        threads: of the CPU.
        device: None: the best for the kind of file.
        size: (h, w) of the input; None: as the file says.
        picture: (h, w) of pictures where preprocessing is timed; None: the model alone.
    """

    threads: int
    device: str | None = None
    size: tuple[int, int] | None = None
    picture: tuple[int, int] | None = None


def serve(pipe: Connection, candidate: Candidate, settings: WorkerSettings) -> None:
    """Answers (name of a method of `Worker`, arguments) until the other end is closed.

    Answers are (True, value), or (False, (message, hint, exit code)) for errors of a user.
    """
    worker: Worker | None = None
    while True:
        try:
            name, arguments = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            worker = worker or Worker(candidate, settings)
            answer: tuple[bool, Any] = (True, getattr(worker, name)(*arguments))
        except DetrkitError as error:
            answer = (False, (error.message, error.hint, error.exit_code))
        except KeyboardInterrupt:
            return
        except Exception as error:  # told where people look
            reason = f"{type(error).__name__}: {error}".strip()
            answer = (False, (reason, None, DetrkitError.exit_code))
        pipe.send(answer)


class Worker:
    """One candidate.

    Args:
        candidate: what is measured.
        settings: how.
    """

    def __init__(self, candidate: Candidate, settings: WorkerSettings) -> None:
        self.candidate, self.settings = candidate, settings
        self.notes: list[str] = []
        logger = logging.getLogger("detrkit")
        logger.addHandler(_Notes(self.notes))
        logger.propagate = False
        self._calls: dict[int, Callable[[], object]] = {}

    def open(self) -> dict[str, Any]:
        """Opens the candidate and runs it once; what `Measured` wants to know of it."""
        import torch  # before the clock runs: every candidate needs it

        from detrkit.engine import runtime as _  # noqa: F401  # likewise
        from detrkit.engine.machine import PeakMemory, resident_memory

        torch.set_num_threads(self.settings.threads)
        self._peak = PeakMemory()
        idle = resident_memory() or None
        started = time.perf_counter()
        self.runtime = self._opened()
        opened = time.perf_counter()
        first = self.runtime.fewest
        self._call(first)()
        ready = time.perf_counter()
        del self._calls[first]
        return {
            "runtime": self._name(),
            "device": str(self.runtime.device),
            "precision": self._precision(),
            "size": self.runtime.image_spec.size,
            "threads": self.settings.threads,
            "transfer": self._transfer(),
            "start": {"open": opened - started, "first": ready - opened},
            "idle_bytes": idle,
        }

    def refusal(self, batch: int) -> str | None:
        """Why a batch size cannot be measured; None: it can."""
        fewest, most = self.runtime.fewest, self.runtime.most
        if fewest <= batch <= (most or batch):
            return None
        takes = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        return f"the file takes {takes} images per call"

    def warm_up(self, batch: int, seconds: float) -> None:
        """Calls until the time has passed, three times at least; forgets the peak of memory."""
        self._calls = {}
        self._peak.reset()
        call = self._call(batch)
        end, done = time.perf_counter() + seconds, 0
        while done < 3 or time.perf_counter() < end:
            call()
            done += 1

    def turn(self, batch: int, seconds: float, repeats: int | None) -> list[float]:
        """Seconds of timed calls, after one that is not: others have used the caches.

        Args:
            batch: images per call.
            seconds: end after so many.
            repeats: calls, instead of seconds.
        """
        call = self._call(batch)
        call()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < repeats if repeats else not times or time.perf_counter() < end:
            started = time.perf_counter()
            call()
            self._wait()
            times.append(time.perf_counter() - started)
        return times

    def peak(self) -> int | None:
        """Most bytes of this process since the latest `warm_up`; of the GPU where that counts."""
        import torch

        if self.runtime.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.runtime.device)
        return self._peak.read()

    def cpu_seconds(self) -> float:
        """CPU time of this process so far."""
        return time.process_time()

    def take_apart(self, batch: int, depth: int, seconds: float) -> Breakdown:
        """Where the time of a call goes, by layers down to a depth and by kind of operation."""
        from detrkit.engine.benchmarking.taking_apart import take_apart

        return take_apart(
            self.runtime,
            self._call(batch),
            batch,
            depth=depth,
            seconds=seconds,
            compiled=self.candidate.compiled,
        )

    def cost(self) -> dict[str, Any]:
        """Bytes on disk, parameters, operations."""
        from detrkit.engine.model_cost import model_cost

        if self.candidate.compiled:  # what is counted is the model before that
            self.runtime = self._opened(compiled=False)
        found = model_cost(self.candidate.source, self.runtime)
        flops = found["flops"]
        return {
            "file_bytes": found["file_bytes"],
            "parameters": found["parameters"],
            "gflops": None if flops is None else flops / 1e9,
            "notes": self.notes,
        }

    def evaluate(self, data: str, split: str | None) -> dict[str, Any]:
        """AP on a data set, and what that is called."""
        from detrkit.engine.evaluation import evaluate_opened

        found = evaluate_opened(self.runtime, data, split)
        values = found.result.metrics.values
        return {"data": found.data, "ap": values["AP"], "ap50": values["AP50"]}

    def _opened(self, compiled: bool | None = None) -> Any:
        from detrkit.engine.runtime import RunOptions, Runtime, TorchRuntime, choose_device

        candidate, settings = self.candidate, self.settings
        wanted = candidate.compiled if compiled is None else compiled
        if not candidate.is_config:
            return Runtime.open(
                candidate.source,
                device=settings.device,
                size=settings.size,
                half=candidate.half,
                compiled=wanted,
                threads=settings.threads,
                provider=candidate.provider,
            )
        options = RunOptions(candidate.half, wanted, settings.threads, candidate.provider)
        options.warn_unused(candidate.source, ("half", "compiled", "threads"))
        loaded = _random(candidate.source, settings.size)
        return TorchRuntime.of(loaded, choose_device(settings.device), options)

    def _call(self, batch: int) -> Callable[[], object]:
        """What is timed; its input is made once."""
        if batch not in self._calls:
            self._calls[batch] = self._make_call(batch)
        return self._calls[batch]

    def _make_call(self, batch: int) -> Callable[[], object]:
        import torch

        generator = torch.Generator().manual_seed(0)
        spec, picture = self.runtime.image_spec, self.settings.picture
        channels = spec.in_channels
        if picture is not None:
            shape = (channels, *picture)
            pictures = [
                torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
                for _ in range(batch)
            ]
            return lambda: self.runtime.predict(pictures)
        images = torch.rand(batch, channels, *spec.size, generator=generator)
        sizes = torch.tensor([[spec.size[1], spec.size[0]]] * batch)
        if self.runtime.takes_device_tensors:  # before the clock runs
            images, sizes = images.to(self.runtime.device), sizes.to(self.runtime.device)
        return lambda: self.runtime.compute(images, sizes)

    def _wait(self) -> None:
        import torch

        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize(self.runtime.device)
        elif self.runtime.device.type == "mps":
            torch.mps.synchronize()

    def _transfer(self) -> str:
        if self.runtime.device.type == "cpu":
            return "none"
        if self.settings.picture is not None or not self.runtime.takes_device_tensors:
            return "input to the device and detections back"
        return "detections back; the input is on the device"

    def _name(self) -> str:
        """`PyTorch, compiled`, `ONNX Runtime, cpu`."""
        from detrkit.engine.runtime import TorchRuntime

        compiled = self.candidate.compiled and isinstance(self.runtime, TorchRuntime)
        return f"{self.runtime.name}, compiled" if compiled else str(self.runtime.name)

    def _precision(self) -> str:
        from detrkit.engine.runtime import TorchRuntime

        if isinstance(self.runtime, TorchRuntime):
            amp = self.runtime.precision.amp
            return "fp32" if amp == "off" else amp
        return str(self.runtime.precision)


class _Notes(logging.Handler):
    """Keeps warnings, each once."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.notes:
            self.notes.append(text)


def _random(source: str, size: tuple[int, int] | None) -> Any:
    """A detector of a configuration with random weights."""
    from detrkit.config import load_config
    from detrkit.engine.checkpoint import Checkpoint
    from detrkit.engine.known_classes import known_class_map
    from detrkit.engine.parts import build_model, image_spec_of
    from detrkit.engine.weights import LoadedDetector
    from detrkit.structures import ClassMap

    cfg = load_config(source, overrides={"image_size": list(size)} if size else None)
    count = int(cfg.run.num_classes or 80)
    return LoadedDetector(
        model=build_model(cfg, seed=0).eval(),
        config=cfg,
        class_map=known_class_map(count) or ClassMap.from_names(f"class {i}" for i in range(count)),
        image_spec=image_spec_of(cfg),
        checkpoint=Checkpoint(),
    )
