"""The parts of a model in a profile of training: forward by hooks, backward by what it answers.

Autograd gives every node that a forward operation makes a number, and the profiler notes it with
that operation and again when the node runs backwards. So a backward operation belongs to the part
whose forward operation has its number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.profiler import record_function

from detrkit.phases import phase, phase_of

#: Of the losses, which come behind the model.
LOSSES = "losses"
_FORWARD = "forward: "
_NODE = "autograd::engine::evaluate_function"


class MarkedParts:
    """Marks the forward passes of the direct children of a model while it is open.

    Args:
        model: backbone, encoder, decoder.
    """

    def __init__(self, model: nn.Module) -> None:
        self._handles: list[Any] = []
        for name, part in model.named_children():
            marks: list[record_function] = []
            self._handles += [
                part.register_forward_pre_hook(
                    lambda *_, name=name, marks=marks: _begin(name, marks)
                ),
                part.register_forward_hook(lambda *_, marks=marks: _end(marks), always_call=True),
            ]

    def close(self) -> None:
        """Takes the marks off."""
        for handle in self._handles:
            handle.remove()


def _begin(name: str, marks: list[record_function]) -> None:
    mark = phase(f"{_FORWARD}{name}")
    mark.__enter__()
    marks.append(mark)


def _end(marks: list[record_function]) -> None:
    if marks:
        marks.pop().__exit__(None, None, None)


@dataclass(frozen=True, slots=True)
class PartTimes:
    """Milliseconds of all steps of a profile, of the host.

    Attributes:
        forward: by part, in the order in which they ran.
        backward: by part, and `LOSSES`; what belongs to none is left out.
    """

    forward: dict[str, float]
    backward: dict[str, float]


def part_times(events: Iterable[Any]) -> PartTimes:
    """Times of the parts.

    Args:
        events: `events()` of a profile in which the parts were marked.
    """
    ordered = sorted(events, key=lambda event: event.time_range.start)
    forward: dict[str, float] = {}
    owner: dict[int, str] = {}  # number of a node -> part
    open_until: list[tuple[float, int, str]] = []  # end, thread, part
    for event in ordered:
        start, thread = event.time_range.start, event.thread
        open_until = [each for each in open_until if each[0] > start]
        part = _part_of(event.name)
        if part is not None:
            if part != LOSSES:
                forward[part] = forward.get(part, 0.0) + event.cpu_time_total / 1000
            open_until.append((event.time_range.end, thread, part))
        elif event.sequence_nr >= 0 and not _is_backward(event):
            inside = [each for each in open_until if each[1] == thread]
            if inside:  # the latest operation with a number is the one that made its node
                owner[event.sequence_nr] = inside[-1][2]
    backward: dict[str, float] = {}
    for event in ordered:
        part = owner.get(event.sequence_nr) if event.name.startswith(_NODE) else None
        if part is not None:
            backward[part] = backward.get(part, 0.0) + event.cpu_time_total / 1000
    return PartTimes(forward, backward)


def _part_of(name: str) -> str | None:
    marked = phase_of(name)
    if marked is None:
        return None
    if marked == "loss":
        return LOSSES
    return marked.removeprefix(_FORWARD) if marked.startswith(_FORWARD) else None


def _is_backward(event: Any) -> bool:
    return event.name.startswith("autograd::") or event.scope == 1
