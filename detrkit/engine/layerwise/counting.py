"""One forward pass, in which torch's counter and the memory of each layer are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detrkit.engine.layerwise.memory import LiveBytes, beside
from detrkit.engine.layerwise.running import Calls, listening

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Pass:
    """What a forward pass showed; all mappings by the names of layers.

    Attributes:
        shapes: of the tensors that a layer returned.
        calls: how often it ran.
        first: number of its first call.
        flops: its own operations, by kind: "convolution", "matrix product", "attention".
        kept, peak: see `LiveBytes`.
    """

    shapes: dict[str, Shapes]
    calls: dict[str, int]
    first: dict[str, int]
    flops: dict[str, dict[str, int]]
    kept: dict[str, int]
    peak: dict[str, int]

    @property
    def flops_by_kind(self) -> dict[str, int]:
        """Of all layers."""
        found: dict[str, int] = {}
        for kinds in self.flops.values():
            for kind, count in kinds.items():
                found[kind] = found.get(kind, 0) + count
        return found


def run_counted(model: nn.Module, inputs: Sequence[Any]) -> Pass:
    """Runs a model once.

    Args:
        model: in evaluation.
        inputs: its arguments.
    """
    counter = FlopCounterMode(display=False)
    calls = _FlopsOfLayers(counter)
    memory = LiveBytes(beside(model, tensors_in(inputs)))
    with torch.no_grad(), counter, listening(model, calls, memory), memory:
        model(*inputs)
    return Pass(calls.shapes, calls.count, calls.first, calls.flops, memory.kept, memory.peak)


class _FlopsOfLayers(Calls):
    """Gives what the counter counted since the latest change of layers to the one that ran."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self.flops: dict[str, dict[str, int]] = {}
        self.shapes: dict[str, Shapes] = {}
        self._counter = counter
        self._before: dict[Any, int] = {}

    def enter(self, name: str, module: nn.Module) -> None:
        self._settle()
        super().enter(name, module)

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        self._settle()
        self.shapes[name] = shapes_of(output)
        super().leave(name, module, output)

    def _settle(self) -> None:
        counted = self._counter.flop_counts.get("Global", {})
        if self.running:
            own = self.flops.setdefault(self.running[-1], {})
            for operation, count in counted.items():
                grown = int(count) - self._before.get(operation, 0)
                if grown:
                    kind = kind_of(str(operation))
                    own[kind] = own.get(kind, 0) + grown
        self._before = {operation: int(count) for operation, count in counted.items()}


def kind_of(operation: str) -> str:
    """`aten.addmm` -> "matrix product"."""
    if "attention" in operation:
        return "attention"
    return "convolution" if "convolution" in operation else "matrix product"


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in an argument or a result, in lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list | tuple):
        return []
    return [tensor for item in items for tensor in tensors_in(item)]


def shapes_of(output: Any) -> Shapes:
    """Shapes of the tensors in an output; dictionaries and lists one level deep."""
    if isinstance(output, Tensor):
        return (tuple(output.shape),)
    items = output.values() if isinstance(output, dict) else output
    if not isinstance(output, dict | list | tuple):
        return ()
    return tuple(tuple(item.shape) for item in items if isinstance(item, Tensor))
