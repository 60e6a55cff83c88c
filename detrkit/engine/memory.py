"""When memory is short: how errors tell, and how to give memory back."""

from __future__ import annotations

import gc

import torch

#: Messages of libraries that do not raise torch's own error when memory is short.
_ALLOCATION_FAILED = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory is short, whoever raised it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _ALLOCATION_FAILED)


def give_back(device: torch.device) -> None:
    """Returns memory that nothing holds any more to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
