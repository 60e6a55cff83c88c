"""`schedule: auto`: every number of the training plan from the length of the run.

Derived are the epochs at which something begins or ends (`Windows`) and what is counted in steps
(`automatic`). The authors' files are the fixed points: with a file's own count of epochs and
batches as the authors had, its own numbers come out again.

Their arithmetic, for n epochs with augmentation (`stop_epoch`) out of N:

    4 epochs of light augmentation first     atto to X; 2 of 24 when tuning
    mosaic, mixup and the flat rate end      at 4 + n / 2
    copyblend and strong augmentation end    at n
    the matcher changes                      at 0.9 n (0.83 to 0.96)
    N - n epochs without augmentation last   8 of 58, 12 of 102 to 160, 32 of 500; 1 to 3 of
                                             RT-DETRv2's 72 to 120

One rule of theirs is not taken over: that the epochs without augmentation begin with the best
weights so far, and return to them after each epoch that is not better. Short runs still improve
when augmentation ends, and on few validation images the best epoch is a lucky one, so that this
throws away what was learnt since. Here they begin with the best weights only after a decline: when
none of the three epochs before came as near to the best one as chance allows
(`detrkit.engine.judging`); and no epoch returns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detrkit.engine.schedules import FLAT_COSINE
from detrkit.engine.stages import collate_of, matcher_change, matcher_of, transforms_of

#: Steps of a fine-tuning. DEIMv2 Atto on 60 images of BCCD (`tests/benchmarks/small_data.py`, 224
#: pixels, batch 8, frozen batch norms) reached AP 0.19 in 168 steps and 0.52 in 504, still gaining.
ENOUGH_STEPS = 1000
#: Epochs of a fine-tuning: a plan needs room for its stages; more passes over few images only
#: learn them by heart.
FEWEST, MOST = 12, 300

#: Share of the epochs without augmentation at the end, where the file says less or nothing.
TAIL = 0.12

_TRANSFORMS = "train_dataloader.dataset.transforms"
_COLLATE = "train_dataloader.collate_fn"


@dataclass(frozen=True)
class Automatic:
    """What `automatic` derives.

    Attributes:
        warmup_steps: of the learning rate.
        ema_decay, ema_warmups: of the averaged weights.
    """

    warmup_steps: int
    ema_decay: float
    ema_warmups: int


def automatic(
    epochs: int,
    batches_per_epoch: int,
    *,
    warmup_steps: int = 500,
    ema_decay: float = 0.9999,
    ema_warmups: int = 1000,
) -> Automatic:
    """What is counted in steps.

    The authors' files train for 100 000 steps and more. Their numbers (the keyword arguments)
    are upper limits; a short run takes a share of its own length T = epochs x batches:

    - learning-rate warm-up over T / 20 steps, at most theirs;
    - averaged weights remember the last T / 20 steps (decay = 1 - 20 / T), at most as long as
      theirs, and their decay rises over T / 40 steps, at most theirs.

    Zero stays zero: a recipe that turned its warm-up off keeps it off.
    """
    total = max(epochs * batches_per_epoch, 1)
    memory = max(total / 20, 10.0)
    return Automatic(
        warmup_steps=min(warmup_steps, math.ceil(total / 20)),
        ema_decay=min(ema_decay, round(1 - 1 / memory, 6)),
        ema_warmups=min(ema_warmups, math.ceil(total / 40)),
    )


def enough_epochs(batches_per_epoch: int) -> int:
    """How long to fine-tune where nobody says: `ENOUGH_STEPS`, in 12 to 300 epochs."""
    return min(max(math.ceil(ENOUGH_STEPS / max(batches_per_epoch, 1)), FEWEST), MOST)


@dataclass(frozen=True)
class Windows:
    """Moves the epochs of a file that was made for another count of epochs.

    Attributes:
        old_start, old_stop: first epochs with and without strong augmentation in the file.
        start, stop: the same in the run.
    """

    old_start: int
    old_stop: int
    start: int
    stop: int

    @classmethod
    def derive(cls, epochs: int, *, start: int, stop: int, base: int | None = None) -> Windows:
        """The rules for the two epochs that the others hang on.

        - The tail: a run that is shorter than the file's takes 12 % of its epochs (or the file's
          share, if that is more), at most the file's own number; a longer one lets that grow with
          the root of its length. At least one epoch, but never all; none in a run of one or two.
        - The start: the file's own number, at most a fifteenth of the run.

        Args:
            epochs: of the run.
            start: the file's first epoch with strong augmentation.
            stop: the file's first epoch without.
            base: the count of epochs that the file was made for; None: not known.
        """
        tail = TAIL * epochs
        if base is not None and stop < base:
            tail = max(TAIL, (base - stop) / base) * epochs
            tail = min(tail, (base - stop) * max(math.sqrt(epochs / base), 1.0))
        end = max(epochs - (max(round(tail), 1) if epochs > 2 else 0), 1)
        return cls(start, stop, min(start, round(epochs / 15), end - 1), end)

    def move(self, epoch: int) -> int:
        """The place of an epoch of the file in the run, in 0 to `stop`.

        Between the two edges a distance from the start keeps its share of all epochs with
        augmentation: a half stays a half.
        """
        if epoch >= self.old_stop:
            return self.stop
        if epoch <= self.old_start:
            return min(epoch, self.start)
        return min(self.start + (epoch - self.old_start) * self.stop // self.old_stop, self.stop)


def epoch_values(
    tree: Mapping[str, Any], epochs: int, base_epochs: int | None = None
) -> dict[str, Any]:
    """The epochs that `schedule: auto` sets, by dotted key.

    What is off in the file stays off: a second stage, a probability of 0, a window past the
    file's end (the flat rate of N never falls), a matcher that does not change.

    Args:
        tree: the configuration; its epochs are those of the file.
        epochs: of the run.
        base_epochs: the count of epochs that the file was made for, if known.
    """
    policy = transforms_of(tree).get("policy") or {}
    collate = collate_of(tree)
    edges = policy.get("epoch") if policy.get("name") == "stop_epoch" else None
    if isinstance(edges, int):
        edges = [edges]
    multi_scale = collate.get("stop_epoch")
    stops = [epoch for epoch in (multi_scale, (edges or [None])[-1]) if epoch is not None]
    if not stops:
        return {}
    flat = tree.get("lr_scheduler_kind") == FLAT_COSINE
    tail = int(tree.get("no_aug_epoch") or 0) if flat else 0
    if base_epochs is None and tail:
        base_epochs = max(stops) + tail
    if base_epochs is not None and max(stops) >= base_epochs:
        return {}
    start = edges[0] if edges and len(edges) == 3 else 0
    windows = Windows.derive(epochs, start=start, stop=max(stops), base=base_epochs)

    values: dict[str, Any] = {}
    if edges:
        moved = [windows.move(edge) for edge in edges]
        values[f"{_TRANSFORMS}.policy.epoch"] = moved if len(moved) > 1 else moved[0]
    if multi_scale is not None:
        values[f"{_COLLATE}.stop_epoch"] = windows.move(multi_scale)
    for name in ("mixup", "copyblend"):
        window = collate.get(f"{name}_epochs")
        if collate.get(f"{name}_prob") and window and window[0] < windows.old_stop:
            values[f"{_COLLATE}.{name}_epochs"] = [windows.move(epoch) for epoch in window]
    change = matcher_change(tree)
    if change is not None and change < windows.old_stop:
        values[f"{matcher_of(tree)[0]}.matcher_change_epoch"] = windows.move(change)
    if flat and 0 < (tree.get("flat_epoch") or 0) <= windows.old_stop:
        values["flat_epoch"] = windows.move(tree["flat_epoch"])
    if tail:
        values["no_aug_epoch"] = epochs - windows.stop
    return values
