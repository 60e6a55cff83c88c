"""Wishes that any process may have become known to all of them at the same step.

A signal reaches processes at different steps, or only one of them, and clocks differ; but they
must stop and save together, for the others would wait for ever in the next step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from detrkit.engine.distributed.group import control, is_distributed


class Agreement:
    """A few flags, raised by any process, seen by all.

    In a single process a flag is seen at once. Among several the answer comes one call later: the
    exchange runs on the CPU while the step computes, so nothing waits for a GPU, and hardly
    anything for the network.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, Any] | None = None
        self._sent: tuple[bool, ...] = ()

    def __call__(self, *wishes: bool) -> tuple[bool, ...]:
        """Makes wishes known; every process must call it equally often.

        A wish whose answer is still to come is not sent again.

        Returns:
            Which of them any process had, the same answer in all processes.
        """
        if not is_distributed():
            return wishes
        sent = self._sent or (False,) * len(wishes)
        self._sent = tuple(now and not before for now, before in zip(wishes, sent, strict=True))
        flags = torch.tensor(self._sent, dtype=torch.uint8)
        work = dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=control(), async_op=True)
        before, self._pending = self._pending, (flags, work)
        if before is None:
            return (False,) * len(wishes)
        answer, exchange = before
        exchange.wait()
        return tuple(bool(flag) for flag in answer)

    def settle(self) -> None:
        """Waits for the last exchange, so that none is left when the processes part."""
        if self._pending is not None:
            self._pending[1].wait()
            self._pending = None
