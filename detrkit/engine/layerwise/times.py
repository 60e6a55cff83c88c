"""How long each layer takes.

Clocks cost time themselves, the more the deeper the layers: a model of a thousand small ones seems
slower with them. So passes with clocks take turns with passes without; what a clock costs is
measured on a layer that does nothing and taken off every layer, once for each call in it; and both
totals are told.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from detrkit.engine.layerwise.running import Listener, listening

#: Calls of a layer that does nothing, to find out what a clock costs.
_EMPTY_CALLS = 2000


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Medians over passes, in milliseconds.

    Attributes:
        own: by layer, what it took outside the layers that it called; the whole is their sum.
        plain: of a pass without clocks.
        clocked: of a pass with clocks on every layer.
        clock: what one call of a layer costs more with a clock on it; taken off `own`.
        passes: with clocks; there were as many without.
        calls: of each layer in a pass.
        outside: of a pass, outside the model: what was called did more than run it.
    """

    own: dict[str, float]
    plain: float
    clocked: float
    clock: float
    passes: int
    calls: dict[str, int]
    outside: float

    @property
    def whole(self) -> float:
        """Of the model in a pass, by the clocks and without their own cost."""
        return sum(self.own.values())


def time_layers(
    model: nn.Module,
    call: Callable[[], object],
    *,
    seconds: float = 3.0,
    passes: int | None = None,
) -> LayerTimes:
    """Times a model in evaluation, on the device where it is.

    On a GPU, times lie between events in its queue: they hold the kernels of a layer and the gaps
    in which it waits for the next one. Nothing is taken off them, for clocks cost the host time.

    Args:
        model: as it shall run.
        call: a pass; it runs the model.
        seconds: end after so many, but with five passes of each kind at least.
        passes: of each kind, instead of seconds.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    stamp, wait = _stamp_of(device), _waiter(device)
    plain: list[float] = []
    clocked: list[float] = []
    outside: list[float] = []
    layers: dict[str, list[float]] = {}
    inner: dict[str, int] = {}
    calls: dict[str, int] = {}
    with torch.inference_mode():
        for _ in range(2):
            call()
        wait()
        end = time.perf_counter() + seconds
        while len(plain) < passes if passes else len(plain) < 5 or time.perf_counter() < end:
            plain.append(_timed(call, wait))
            clock = _Clocks(stamp)
            with listening(model, clock):
                clocked.append(_timed(call, wait))
            own, inner, calls = clock.read()
            outside.append(clocked[-1] - sum(own.values()))
            for name, value in own.items():
                layers.setdefault(name, []).append(value)
        cost = 0.0 if device.type == "cuda" else _cost_of_a_clock(stamp)
    medians = {name: statistics.median(values) for name, values in layers.items()}
    return LayerTimes(
        own={name: max(value - cost * inner.get(name, 0), 0.0) for name, value in medians.items()},
        plain=statistics.median(plain),
        clocked=statistics.median(clocked),
        clock=cost,
        passes=len(plain),
        calls=calls,
        outside=max(statistics.median(outside), 0.0),
    )


def _timed(call: Callable[[], object], wait: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    wait()
    return 1000 * (time.perf_counter() - started)


def _waiter(device: torch.device) -> Callable[[], None]:
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None


class _Stamp(Protocol):
    def until(self, later: Any) -> float:
        """Milliseconds from this moment to a later one."""


class _HostStamp:
    """A moment by the clock of the host."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at = time.perf_counter()

    def until(self, later: Any) -> float:
        return float(1000 * (later._at - self._at))


class _EventStamp:
    """A moment in the queue of a GPU."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: Any = torch.cuda.Event(enable_timing=True)
        self._event.record()

    def until(self, later: Any) -> float:
        return float(self._event.elapsed_time(later._event))


def _stamp_of(device: torch.device) -> Callable[[], _Stamp]:
    if device.type == "cuda":
        return _EventStamp
    if device.type == "cpu":
        return _HostStamp

    def finished() -> _Stamp:
        _waiter(device)()
        return _HostStamp()

    return finished


class _Clocks(Listener):
    """Stamps when layers begin and end. What it keeps is read after the pass."""

    def __init__(self, stamp: Callable[[], _Stamp]) -> None:
        self._stamp = stamp
        self._stamps: list[tuple[str | None, Any]] = []  # None: the layer that ran ends

    def enter(self, name: str, module: nn.Module) -> None:
        self._stamps.append((name, self._stamp()))

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        self._stamps.append((None, self._stamp()))

    def read(self) -> tuple[dict[str, float], dict[str, int], dict[str, int]]:
        """Of each layer: own milliseconds, calls that it made, calls of it."""
        own: dict[str, float] = {}
        made: dict[str, int] = {}
        calls: dict[str, int] = {}
        running: list[str] = []
        before: Any = None
        for name, stamp in self._stamps:
            if running:
                own[running[-1]] = own.get(running[-1], 0.0) + before.until(stamp)
            if name is None:
                running.pop()
            else:
                if running:  # most of a clock's cost comes before and behind the layer it is on
                    made[running[-1]] = made.get(running[-1], 0) + 1
                calls[name] = calls.get(name, 0) + 1
                running.append(name)
            before = stamp
        return own, made, calls


def _cost_of_a_clock(stamp: Callable[[], _Stamp]) -> float:
    """Milliseconds that a clock adds to a call, as the caller's own time shows it."""
    empty = nn.Identity()
    x = torch.zeros(1)
    turns = 10
    rounds: list[float] = []
    for _ in range(turns):
        started = time.perf_counter()
        for _ in range(_EMPTY_CALLS // turns):
            empty(x)
        plain = time.perf_counter() - started
        clock = _Clocks(stamp)
        with listening(empty, clock):
            started = time.perf_counter()
            for _ in range(_EMPTY_CALLS // turns):
                empty(x)
            with_clock = time.perf_counter() - started
        rounds.append(1000 * (with_clock - plain) / (_EMPTY_CALLS // turns))
    return max(statistics.median(rounds), 0.0)
