"""Repeatable runs: seeds as pure functions of where the run stands, sums in a fixed order."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def mix(*numbers: int) -> int:
    """A seed of 63 bits from several numbers; near inputs give unrelated seeds."""
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_step(seed: int, step: int, rank: int = 0, part: int = 0) -> None:
    """Seeds a training step, or a part of it: what is drawn in it depends on nothing before it.

    So no generator's state needs to be part of a checkpoint, and evaluation, drawing or a
    restart cannot shift what follows.
    """
    seed_everything(mix(seed, step, rank, part) if part else mix(seed, step, rank))


@contextmanager
def fixed_order(device: torch.device) -> Iterator[None]:
    """Lets a CPU add up in a fixed order, so that equal runs give equal bits on several threads.

    The gradient of `x[index]` is otherwise added by all threads at once, in any order. Other
    devices are left alone: their kernels without a fixed order have no quick replacement.
    """
    if device.type != "cpu":
        yield
        return
    # a property of the module, which type checkers do not see; filling changes nothing here
    settings: Any = torch.utils.deterministic
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        settings.fill_uninitialized_memory = fill
