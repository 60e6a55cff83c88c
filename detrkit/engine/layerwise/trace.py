"""Writes down what a model does: which layer called which, and which tensors operations took.

Every operation is seen when it runs, below autograd, so that there is none that is not supported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from detrkit.engine.layerwise.counting import Shapes, shapes_of, tensors_in
from detrkit.engine.layerwise.running import Listener, listening


@dataclass(slots=True)
class Call:
    """A call of a layer.

    Attributes:
        name: of the layer.
        kind: its class.
        caller: number of the call that it came from; -1: none, it is the model.
        level: calls above it.
        parameters: in the layer and below.
        output: shapes of what it returned.
        calls: whether it called other layers.
    """

    name: str
    kind: str
    caller: int
    level: int
    parameters: int
    output: Shapes = ()
    calls: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation.

    Attributes:
        name: "cat", "convolution".
        call: number of the call that it ran in.
        taken, made: numbers of values.
    """

    name: str
    call: int
    taken: tuple[int, ...]
    made: tuple[int, ...]


@dataclass
class Trace:
    """What a model did with one input.

    A value is what a tensor held until it was written to; the first ones are the inputs.

    Attributes:
        calls: in their order.
        operations: in their order.
        shapes: of the values.
        inputs, outputs: of the model.
    """

    calls: list[Call] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()


def trace(model: nn.Module, inputs: Sequence[Any]) -> Trace:
    """Runs a model once.

    Args:
        model: in evaluation.
        inputs: its arguments.
    """
    writer = _Writer()
    found = writer.trace
    found.inputs = tuple(writer.value(tensor) for tensor in tensors_in(inputs))
    with torch.no_grad(), listening(model, writer), writer:
        result = model(*inputs)
    found.outputs = tuple(n for tensor in tensors_in(result) for n in writer.held_by(tensor))
    return found


class _Writer(TorchDispatchMode, Listener):
    def __init__(self) -> None:
        super().__init__()
        self.trace = Trace()
        self._values: WeakIdKeyDictionary = WeakIdKeyDictionary()  # tensor -> its latest value
        self._pieces: dict[int, list[_Piece]] = {}  # storage -> what was written there
        self._running: list[int] = []

    def enter(self, name: str, module: nn.Module) -> None:
        caller = self._running[-1] if self._running else -1
        if caller >= 0:
            self.trace.calls[caller].calls = True
        parameters = sum(p.numel() for p in module.parameters())
        self._running.append(len(self.trace.calls))
        self.trace.calls.append(
            Call(name, type(module).__name__, caller, len(self._running) - 1, parameters)
        )

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        self.trace.calls[self._running.pop()].output = shapes_of(output)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = tensors_in(tree_leaves((args, kwargs)))
        written = _written(func, args, kwargs)
        name = str(func.overloadpacket.__name__)
        read = [t for t in given if name not in _OVERWRITE or t is not args[0]]
        taken = [value for tensor in read for value in self.held_by(tensor)]
        out = func(*args, **kwargs)
        there = {id(tensor) for tensor in written}
        new = [tensor for tensor in tensors_in(tree_leaves(out)) if id(tensor) not in there]
        bases = [(tensor, base) for tensor in new if (base := _base(tensor, given)) is not None]
        if bases:  # a view takes its part alone
            taken = []
        for tensor, base in bases:
            self._values[tensor] = self._values.get(base, -1)
            taken += self.held_by(tensor)
        made = [self.value(tensor) for tensor in [*written, *new]]
        for tensor, value in zip(written, made, strict=False):
            self._write(tensor, value)
        name = name.strip("_")
        self.trace.operations.append(
            Operation(name, self._running[-1] if self._running else -1, tuple(taken), tuple(made))
        )
        return out

    def value(self, tensor: Tensor) -> int:
        """A new value, which the tensor holds from now on."""
        self.trace.shapes.append(tuple(tensor.shape))
        self._values[tensor] = len(self.trace.shapes) - 1
        return len(self.trace.shapes) - 1

    def held_by(self, tensor: Tensor) -> list[int]:
        """Values that a tensor holds: several where parts of it were written through others."""
        own = self._values.get(tensor, -1)
        extent = _extent(tensor)
        found = [own] if own >= 0 else []
        for piece in self._pieces.get(tensor.untyped_storage()._cdata, ()):
            at = piece.extent
            if piece.value > own and at.start < extent.stop and extent.start < at.stop:
                if piece.dense and at.start <= extent.start and extent.stop <= at.stop:
                    found = []  # nothing is left of what was there before
                found.append(piece.value)
        return found

    def _write(self, tensor: Tensor, value: int) -> None:
        extent = _extent(tensor)
        pieces = self._pieces.setdefault(tensor.untyped_storage()._cdata, [])
        pieces.append(_Piece(extent, tensor.numel() == len(extent), value))


@dataclass(frozen=True, slots=True)
class _Piece:
    """What was written into a storage; `dense`: all of its extent."""

    extent: range
    dense: bool
    value: int


#: Operations whose first argument is written to and not read.
_OVERWRITE = ("copy_", "fill_", "zero_")


def _base(tensor: Tensor, given: Sequence[Tensor]) -> Tensor | None:
    """The argument that a result is a view of."""
    key = tensor.untyped_storage()._cdata
    return next((each for each in given if each.untyped_storage()._cdata == key), None)


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The arguments that an operation writes to."""
    found = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            found += tensors_in(value)
    return found


def _extent(tensor: Tensor) -> range:
    """From the first to the last element of its storage that it may hold."""
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    first = tensor.storage_offset()
    return range(first, first + (last + 1 if tensor.numel() else 0))
