"""What a forward pass in training leaves in a model: batch norm's statistics, and the like."""

from __future__ import annotations

from operator import is_
from typing import cast

import torch
from torch import Tensor, nn

#: A buffer by the dictionary of the module that owns it, which may assign it anew at any time.
_Slot = tuple[dict[str, Tensor], str]


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers of a module itself, not of those inside it, that a checkpoint holds."""
    return {
        name: value
        for name, value in module._buffers.items()
        if value is not None and name not in module._non_persistent_buffers_set
    }


class Statistics:
    """The buffers of a model as they were before a step, to bring them back.

    Only what a checkpoint holds. There are hundreds, so they are copied into one row per type,
    and neither the modules are walked nor views are made in every step.
    """

    def __init__(self) -> None:
        self._followed: nn.Module | None = None
        self._rows: list[_Row] = []

    @torch.no_grad()
    def keep(self, model: nn.Module) -> None:
        """Remembers the present values."""
        if self._followed is not model:
            self._followed, self._rows = model, _rows(model)
        for row in self._rows:
            row.keep()

    @torch.no_grad()
    def bring_back(self, where: Tensor | None = None) -> None:
        """Gives the buffers their remembered values.

        Args:
            where: () bool on the device: whether to do it at all, without the host's knowing.
        """
        for row in self._rows:
            row.bring_back(where)


class _Row:
    """Buffers of one type, and their values side by side."""

    def __init__(self, slots: list[_Slot]) -> None:
        self.slots = slots
        self.tensors: list[Tensor] = []
        self._look()

    def keep(self) -> None:
        self._look()
        torch.cat(self._flat(), out=self.kept)

    def bring_back(self, where: Tensor | None) -> None:
        if not self._look():
            return
        if where is None:
            self.chosen.copy_(self.kept)
        else:
            torch.cat(self._flat(), out=self.chosen)
            torch.where(where, self.kept, self.chosen, out=self.chosen)
        torch._foreach_copy_(self.tensors, self.pieces)

    def _look(self) -> bool:
        """Finds the buffers; whether they have the sizes of before.

        One of another size was made for the images of a step, not learned from them.
        """
        tensors = [owner[name] for owner, name in self.slots]
        if len(tensors) == len(self.tensors) and all(map(is_, tensors, self.tensors)):
            return True
        same_sizes = [t.shape for t in tensors] == [t.shape for t in self.tensors]
        self.tensors = tensors
        self.views = [t.view(-1) if t.is_contiguous() else None for t in tensors]
        if not same_sizes:
            self.kept = tensors[0].new_empty(sum(t.numel() for t in tensors))
            self.chosen = torch.empty_like(self.kept)
            sizes = [t.numel() for t in tensors]
            pieces = zip(self.chosen.split(sizes), tensors, strict=True)
            self.pieces = [piece.view(tensor.shape) for piece, tensor in pieces]
        return same_sizes

    def _flat(self) -> list[Tensor]:
        pairs = zip(self.views, self.tensors, strict=True)
        return [tensor.reshape(-1) if view is None else view for view, tensor in pairs]


def _rows(model: nn.Module) -> list[_Row]:
    by_type: dict[tuple[torch.dtype, torch.device], list[_Slot]] = {}
    for module in model.modules():
        owner = cast("dict[str, Tensor]", module._buffers)
        for name, value in persistent_buffers(module).items():
            by_type.setdefault((value.dtype, value.device), []).append((owner, name))
    return [_Row(slots) for slots in by_type.values()]
