"""What a forward pass in training leaves in a model: batch norm's statistics, and the like."""

from __future__ import annotations

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

    Only what a checkpoint holds; a few operations for all of them, because there are hundreds.
    """

    def __init__(self) -> None:
        self._followed: nn.Module | None = None
        #: By type; walking the modules in every step would cost more than all the rest.
        self._slots: list[list[_Slot]] = []
        #: Buffers of one type, their sizes, and their values in one row.
        self._kept: list[tuple[list[_Slot], list[int], Tensor]] = []

    @torch.no_grad()
    def keep(self, model: nn.Module) -> None:
        """Remembers the present values."""
        if self._followed is not model:
            self._followed, self._slots = model, _slots(model)
        self._kept = []
        for slots in self._slots:
            values = [owner[name] for owner, name in slots]
            self._kept.append((slots, [value.numel() for value in values], _row(values)))

    @torch.no_grad()
    def bring_back(self, where: Tensor | None = None) -> None:
        """Gives the buffers their remembered values.

        Args:
            where: () bool on the device: whether to do it at all, without the host's knowing.
        """
        for slots, sizes, kept in self._kept:
            # a module may have assigned a new tensor in the meantime
            present = [owner[name] for owner, name in slots]
            if [value.numel() for value in present] != sizes:
                continue  # of another size: made for the images, not learned from them
            values = kept if where is None else torch.where(where, kept, _row(present))
            pieces = zip(values.split(sizes), present, strict=True)
            torch._foreach_copy_(present, [piece.view_as(value) for piece, value in pieces])


def _slots(model: nn.Module) -> list[list[_Slot]]:
    by_type: dict[tuple[torch.dtype, torch.device], list[_Slot]] = {}
    for module in model.modules():
        owner = cast("dict[str, Tensor]", module._buffers)
        for name, value in persistent_buffers(module).items():
            by_type.setdefault((value.dtype, value.device), []).append((owner, name))
    return list(by_type.values())


def _row(values: list[Tensor]) -> Tensor:
    return torch.cat([value.reshape(-1) for value in values])
