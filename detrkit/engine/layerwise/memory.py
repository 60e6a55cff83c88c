"""Memory of activations: what a forward pass holds, and what it saves for the backward pass.

Counted are bytes of tensors, each storage once. Left out are parameters, buffers, the input, and
what lies outside tensors: work space of kernels, reserves of an allocator. So the numbers are the
same on every device and do not depend on what else the process does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detrkit.engine.layerwise.running import Calls, Listener


class LiveBytes(TorchDispatchMode, Listener):
    """Follows every storage from the operation that makes it to its end.

    Args:
        apart_from: tensors that live anyhow: weights and input.

    Attributes:
        most: the most bytes alive at one time.
        kept: by layer, bytes that its calls made and left behind when they returned: its outputs.
            A view of the input, or a result in the input's place, is no new memory.
        peak: by layer, the most bytes alive at one time while it ran; what waits elsewhere, such
            as the other branch of a skip connection, is part of it.
    """

    def __init__(self, apart_from: Iterable[Tensor]) -> None:
        super().__init__()
        self._given = {_key(tensor) for tensor in apart_from}
        self._alive: dict[int, tuple[int, int]] = {}  # storage -> (serial number, bytes)
        self._made = 0
        self._live = 0
        self.most = 0
        self._frames: list[list[int]] = []  # serial number at the beginning, peak
        self.kept: dict[str, int] = {}
        self.peak: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return out

    def enter(self, name: str, module: nn.Module) -> None:
        self._frames.append([self._made, self._live])

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        made, peak = self._frames.pop()
        left = 0
        for serial, size in reversed(self._alive.values()):
            if serial <= made:
                break
            left += size
        self.kept[name] = self.kept.get(name, 0) + left
        self.peak[name] = max(self.peak.get(name, 0), peak)

    def _note(self, tensor: Tensor) -> None:
        key = _key(tensor)
        if key in self._alive or key in self._given:
            return
        storage = tensor.untyped_storage()
        self._made += 1
        self._alive[key] = (self._made, storage.nbytes())
        self._live += storage.nbytes()
        self.most = max(self.most, self._live)
        weakref.finalize(storage, self._gone, key).atexit = False
        for frame in self._frames:
            frame[1] = max(frame[1], self._live)

    def _gone(self, key: int) -> None:
        _, size = self._alive.pop(key, (0, 0))
        self._live -= size


class SavedBytes:
    """What autograd keeps for the backward pass.

    Args:
        apart_from: tensors that live anyhow: weights and input.
        calls: says which layer runs.

    Attributes:
        own: by layer, bytes of the storages that it was the first to save.
    """

    def __init__(self, apart_from: Iterable[Tensor], calls: Calls) -> None:
        self._seen = {_key(tensor) for tensor in apart_from}
        self._held: list[Tensor] = []  # so that no other storage gets the key of one that ended
        self._calls = calls
        self.own: dict[str, int] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Counts in the block."""
        with torch.autograd.graph.saved_tensors_hooks(self._save, lambda saved: saved):
            yield

    def _save(self, tensor: Tensor) -> Tensor:
        key = _key(tensor)
        if key not in self._seen:
            self._seen.add(key)
            self._held.append(tensor)
            name = self._calls.running[-1] if self._calls.running else ""
            self.own[name] = self.own.get(name, 0) + tensor.untyped_storage().nbytes()
        return tensor


def beside(module: nn.Module, inputs: Iterable[Tensor]) -> list[Tensor]:
    """What lives before and after a pass of a module: weights and input."""
    return [*module.parameters(), *module.buffers(), *inputs]


def peak_of(run: Callable[[], Any], apart_from: Iterable[Tensor] = ()) -> int:
    """Most bytes alive at once while `run()` computes, the result included.

    Args:
        run: a forward pass.
        apart_from: tensors that live anyhow.
    """
    with LiveBytes(apart_from) as living:
        result = run()
    del result
    return living.most


def kept_by(run: Callable[[], Any], apart_from: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps of `run()` for the gradients.

    Args:
        run: a forward pass with gradients.
        apart_from: tensors that live anyhow.
    """
    saved = SavedBytes(apart_from, Calls())
    with saved.watching():
        result = run()
    del result
    return sum(saved.own.values())


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
