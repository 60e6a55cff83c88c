"""Seeds as pure functions of where the run stands."""

from __future__ import annotations

import hashlib
import random

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


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seeds a training step: what is drawn in it depends on nothing before it.

    So no generator's state needs to be part of a checkpoint, and evaluation, drawing or a
    restart cannot shift what follows.
    """
    seed_everything(mix(seed, step, rank))
