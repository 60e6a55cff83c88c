"""The parts of a training step, under names that a profile shows."""

from __future__ import annotations

from torch.profiler import record_function

#: In the order of a step. "match" lies inside "loss"; "distill" is the teacher and its losses.
PHASES = ("data", "forward", "loss", "match", "distill", "backward", "clip", "optimizer", "ema")

_PREFIX = "detrkit: "


def phase(name: str) -> record_function:
    """A context that marks a part of a step; microseconds where nothing is profiled."""
    return record_function(_PREFIX + name)


def phase_of(event: str) -> str | None:
    """The part that an event of a profile marks; None: it is something else."""
    return event[len(_PREFIX) :] if event.startswith(_PREFIX) else None
