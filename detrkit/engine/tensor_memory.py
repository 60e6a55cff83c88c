"""Bytes of tensors: alive at once in a forward pass, and kept for the backward pass.

Counted are the tensors that PyTorch's operations return. What a library takes for itself inside
one operation is not seen, and neither is what an allocator rounds up or holds in reserve.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


def peak_of(run: Callable[[], Any], apart_from: Iterable[Tensor] = ()) -> int:
    """Most bytes alive at once while `run()` computes, the result included.

    Args:
        run: a forward pass.
        apart_from: tensors that live anyhow, e.g. weights and inputs.
    """
    with _Living(apart_from) as living:
        result = run()
    del result
    return living.peak


def kept_by(run: Callable[[], Any], apart_from: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps of `run()` for the gradients.

    Args:
        run: a forward pass with gradients.
        apart_from: tensors that live anyhow, e.g. weights and inputs.
    """
    known = {_place(t) for t in apart_from}
    kept: dict[int, Any] = {}  # the storages themselves: places of dead ones are given again

    def pack(tensor: Tensor) -> Tensor:
        if _place(tensor) not in known:
            kept[_place(tensor)] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(storage.nbytes() for storage in kept.values())


def _place(tensor: Tensor) -> int:
    """The same for views of one storage."""
    return int(tensor.untyped_storage()._cdata)


class _Living(TorchDispatchMode):
    """Adds the storages of what operations return, and takes them off when they die.

    Attributes:
        peak: most bytes so far.
    """

    def __init__(self, apart_from: Iterable[Tensor]) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._known = {_place(tensor) for tensor in apart_from}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return tree_map_only(Tensor, self._add, func(*args, **(kwargs or {})))

    def _add(self, tensor: Tensor) -> Tensor:
        place = _place(tensor)
        if place not in self._known:
            storage = tensor.untyped_storage()
            self._known.add(place)
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._remove, place, storage.nbytes())
        return tensor

    def _remove(self, place: int, size: int) -> None:
        self._known.discard(place)
        self._now -= size
