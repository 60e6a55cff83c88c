"""Notices a loss or gradient that is not finite, and says where it began."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from detrkit.engine.distributed.group import gathered, mean, shared
from detrkit.engine.distributed.meeting import agreed
from detrkit.errors import TrainingDiverged
from detrkit.structures import Target

#: A step: its number, losses, gradient norm and images.
Entry = tuple[int, Mapping[str, Tensor], Tensor, list[int | str]]
#: Step, whether the losses are finite, message.
Report = tuple[int, bool, str]


class Watch:
    """Looks at each step's losses; reads them from the device only every few steps.

    What one of several processes finds, all raise.

    Args:
        every: steps between two readings; reading makes the host wait for a GPU.
        gradients: whether the gradient norm must be finite as well.
    """

    def __init__(self, every: int = 1, gradients: bool = True) -> None:
        self.every = every
        self.gradients = gradients
        self._recent: deque[Entry] = deque()

    def look(
        self, step: int, losses: Mapping[str, Tensor], norm: Tensor, targets: Sequence[Target]
    ) -> None:
        """Remembers a step, and checks when it is time.

        Raises:
            TrainingDiverged: one of the remembered steps is not finite.
        """
        self._recent.append((step, losses, norm, [target.image_id for target in targets]))
        if len(self._recent) >= self.every:
            self.check()

    def check(self) -> None:
        """Checks all remembered steps and forgets them."""
        if not self._recent:
            return
        recent, self._recent = list(self._recent), deque()
        totals = torch.stack([torch.stack(list(entry[1].values())).sum() for entry in recent])
        if self.gradients:
            totals = totals + torch.stack([entry[2] for entry in recent])
        if bool(torch.isfinite(mean(totals)).all()):
            return
        reports = gathered(self._report(recent)) or []
        error = shared(lambda: _earliest([report for report in reports if report is not None]))
        if error is not None:
            raise agreed(error)

    def _report(self, recent: Sequence[Entry]) -> Report | None:
        """What is wrong in this process: where, how badly, and what to say."""
        for step, losses, norm, images in recent:
            values = {name: float(value) for name, value in losses.items()}
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            finite = math.isfinite(sum(values.values()))
            if not bad and finite and (math.isfinite(float(norm)) or not self.gradients):
                continue
            terms = ", ".join(f"{name} = {values[name]}" for name in bad[:4])
            more = f" and {len(bad) - 4} more" if len(bad) > 4 else ""
            what = f"the loss is not finite at step {step}: {terms}{more}"
            if finite and not bad:
                what = f"the gradient is not finite at step {step} (the losses are)"
            names = ", ".join(map(str, images[:16]))
            return step, not bad, f"{what}; gradient norm {float(norm):.3g}; images {names}"
        return None


def _earliest(reports: Sequence[Report]) -> TrainingDiverged | None:
    """The first step; of several processes at that step one whose losses are not finite."""
    if not reports:
        return None
    _, _, message = min(reports)
    return TrainingDiverged(
        message,
        hint="lower the learning rate (--lr), use --amp bf16 or off, or look at these images",
    )
