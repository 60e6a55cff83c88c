"""What sums are divided by: counts averaged over the processes that train together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from detrkit.losses.stack import Scale


@dataclass(frozen=True)
class Whole:
    """What the losses of a step are relative to: its whole batch, also where parts are judged.

    Attributes:
        images: of the batch in this process.
        queries: ordinary queries of these images.
        pairs: pairs of the box losses in these images.
        class_scale: divides the class losses; averaged over processes.
        box_scale: divides the box losses; averaged over processes.
    """

    images: int
    queries: int
    pairs: int
    class_scale: Scale
    box_scale: Scale


def mean_over_processes(counts: list[int], device: torch.device) -> list[float | Tensor]:
    """Each count averaged over all processes, at least 1.

    Every process must call it in every step, also one without boxes: it is a collective. The
    averages stay on the device as () tensors; with a single process they are plain numbers.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return [float(max(count, 1)) for count in counts]
    total = torch.tensor(counts, dtype=torch.float32).to(device, non_blocking=True)
    distributed.all_reduce(total)
    return list((total / distributed.get_world_size()).clamp(min=1).unbind())
