"""The mean losses of an epoch, also where some batches lack a term."""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.engine.state import TrainState


def losses(**values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_a_term_that_a_batch_lacks_counts_as_zero() -> None:
    state = TrainState()
    for batch in (losses(a=1.0, b=2.0), losses(a=3.0), losses(b=4.0, c=6.0), losses(a=2.0, b=0.0)):
        state.add(batch, 2)
        state.batch += 1
    assert state.mean_losses() == {"loss": 4.5, "a": 1.5, "b": 1.5, "c": 1.5}
    assert state.images == 8
