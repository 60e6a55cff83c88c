"""How long the parts of a prediction take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from detrkit.metrics.schema import SpeedJson

Part = Literal["preprocess", "model", "postprocess"]


class Stopwatch:
    """Adds up the seconds of each part.

    Args:
        device: waited for before every reading, so that work that goes on there is counted where
            it belongs; None: the watch stands still, and costs nothing.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        """Back to zero, e.g. after a first batch that warmed up."""
        self.seconds: dict[str, float] = {"preprocess": 0.0, "model": 0.0, "postprocess": 0.0}
        self.images = 0

    @contextmanager
    def over(self, part: Part) -> Iterator[None]:
        """Counts what runs inside for `part`."""
        if self.device is None:
            yield
            return
        started = self._now()
        yield
        self.seconds[part] += self._now() - started

    def _now(self) -> float:
        assert self.device is not None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def speed(self, batch: int) -> SpeedJson | None:
        """Milliseconds per image; None when none was timed.

        Args:
            batch: images per forward pass.
        """
        if not self.images or self.device is None:
            return None
        each = {part: 1000 * seconds / self.images for part, seconds in self.seconds.items()}
        total = sum(each.values())
        return {
            "preprocess": each["preprocess"],
            "model": each["model"],
            "postprocess": each["postprocess"],
            "total": total,
            "fps": 1000 / max(total, 1e-9),
            "batch": batch,
            "device": str(self.device),
            "images": self.images,
        }
