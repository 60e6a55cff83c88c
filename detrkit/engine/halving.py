"""A batch that does not fit into memory goes through the model in smaller parts.

The gradients are those of the whole batch (`accumulation.py`), so the training stays what it is
but for batch norm's statistics, and takes longer. The parts stay small for the rest of the run,
also when it is resumed, unless `resume --accumulate` says otherwise.

Several processes cannot do this: one that is short of memory leaves the others waiting for its
gradients, and cannot tell them.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from detrkit.engine.distributed.group import is_distributed, rank
from detrkit.engine.memory import give_back, is_out_of_memory
from detrkit.errors import DetrkitError
from detrkit.structures import Batch
from detrkit.words import amount, count

if TYPE_CHECKING:
    from detrkit.engine.trainer import Trainer

log = logging.getLogger("detrkit")

_HINT = "a smaller input (--size), a smaller --batch, a smaller model, or --amp bf16"


def fitting_step(trainer: Trainer, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """`trainer.train_step`, and where memory is short once more, in parts half as large.

    Raises:
        DetrkitError: a single image does not fit; another process would have to do the same.
    """
    while True:
        try:
            return trainer.train_step(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        # after the handler: the error's frames hold the tensors
        _halve(trainer, batch, reason)


def _halve(trainer: Trainer, batch: Batch, reason: str) -> None:
    """Doubles the parts; the step is as if it had not begun."""
    parts = min(trainer.parts, len(batch))
    images = math.ceil(len(batch) / parts)
    what = f"{count(images, 'image')} of {batch.images.shape[-2]}x{batch.images.shape[-1]}"
    if not trainer.safeguard.untouched:
        raise DetrkitError(f"out of memory while the weights were updated: {reason}", hint=_HINT)
    if images == 1:
        raise DetrkitError(f"out of memory with {what}: {reason}", hint=_HINT)
    if is_distributed():
        raise DetrkitError(
            f"process {rank()} is out of memory with {what}: {reason}",
            hint=f"--accumulate {2 * trainer.parts} lets a batch through in smaller parts",
        )
    trainer.safeguard.undo()
    give_back(trainer.device)
    trainer.state.splits *= 2
    log.warning(
        "out of memory with %s%s: from now on in parts of %d (accumulate: %d)",
        what,
        _peak(trainer.device),
        math.ceil(len(batch) / min(trainer.parts, len(batch))),
        trainer.parts,
    )
    log.debug("%s", reason)


def _peak(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    _, total = torch.cuda.mem_get_info(device)
    peak = torch.cuda.max_memory_reserved(device)
    return f" (at most {amount(peak)} of {amount(total)} in use)"
