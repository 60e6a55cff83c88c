"""Constants that depend on feature sizes only: anchors, position embeddings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T", bound="Tensor | tuple[Tensor, ...]")


class SizeCache:
    """Keeps what was built for the last sizes, so that multi-scale training builds each once.

    It is no part of a model's state: a copied, pickled or saved model starts with an empty one.

    Args:
        limit: how many sizes are kept; the one not used for longest goes first.
    """

    def __init__(self, limit: int = 32) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        """What `build()` returned for `key`, now or earlier. `key` names size, device and dtype."""
        if torch.compiler.is_compiling():
            return build()  # part of the traced graph
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        with torch.inference_mode(False), torch.no_grad():
            value = build()  # an inference tensor would be useless in the next training step
        first = value if isinstance(value, Tensor) else value[0]
        if type(first) is Tensor:  # not a fake tensor of some tracer
            self._kept[key] = value
            while len(self._kept) > self.limit:
                self._kept.popitem(last=False)
        return value

    def __len__(self) -> int:
        return len(self._kept)

    def __deepcopy__(self, memo: dict[int, Any]) -> SizeCache:
        return SizeCache(self.limit)

    def __reduce__(self) -> tuple[Any, ...]:
        return SizeCache, (self.limit,)
