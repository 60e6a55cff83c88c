"""Stages: the runs of epochs in which augmentation, image sizes, averaging and matching stay equal.

Everything is read from the keys that the parts themselves read:

    train_dataloader.dataset.transforms.policy    strong operations until `epoch`; with three
                                                  epochs [A, B, C] from A to C, mosaic from A to B
    train_dataloader.dataset.transforms.mosaic_prob
    train_dataloader.collate_fn                   stop_epoch, scales or base_size and
                                                  base_size_repeat, mixup_*, copyblend_*,
                                                  ema_restart_decay
    <criterion>.matcher                           change_matcher, matcher_change_epoch
    restart_from_best                             whether the epochs from stop_epoch on start from
                                                  the best weights (RT-DETRv2's do not;
                                                  "decline": where the latest are worse)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from detrkit.data.collate import generate_scales
from detrkit.errors import ConfigError

#: A side in pixels, or (h, w).
Size = int | tuple[int, int]


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of epochs under the same rules.

    Attributes:
        name: "light augmentation", "dense augmentation" (mosaic, mixup or copyblend), "strong
            augmentation", "refine" (the last epochs) or "train" (when there is only one).
        first: its first epoch, counted from 0.
        end: the epoch after its last.
        strong_augmentation: whether the operations that the policy names are on.
        image_sizes: sides in pixels, or (h, w), that batches are resized to at random; empty: off.
        ema_decay: the decay in force.
        restarts: belongs to the epochs that begin with the best weights so far, and that return
            to them after each epoch that is not better.
        mosaic: share of the images that become mosaics.
        mixup: share of the batches whose images are blended.
        copyblend: share of the other batches that objects are copied in.
        changed_matcher: whether the matcher pairs by class score and IoU alone.
    """

    name: str
    first: int
    end: int
    strong_augmentation: bool
    image_sizes: tuple[Size, ...]
    ema_decay: float
    restarts: bool = False
    mosaic: float = 0.0
    mixup: float = 0.0
    copyblend: float = 0.0
    changed_matcher: bool = False

    def starts_at(self, epoch: int) -> bool:
        """Whether this stage begins with `epoch`, coming from another stage."""
        return epoch == self.first and epoch > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "name": self.name,
            "epochs": [self.first, self.end - 1],
            "strong_augmentation": self.strong_augmentation,
            "mosaic": self.mosaic,
            "mixup": self.mixup,
            "copyblend": self.copyblend,
            "image_sizes": [
                size if isinstance(size, int) else [*size] for size in self.image_sizes
            ],
            "changed_matcher": self.changed_matcher,
            "ema_decay": self.ema_decay,
            "restarts_from_best": self.restarts,
        }

    def describe(self) -> str:
        """One line of text."""
        words = ["strong augmentation" if self.strong_augmentation else "light augmentation"]
        for name in ("mosaic", "mixup", "copyblend"):
            share = getattr(self, name)
            if share:
                words.append(f"{name} {share:.0%}")
        sizes = sorted(size if isinstance(size, int) else max(size) for size in self.image_sizes)
        words.append(f"image sizes {sizes[0]} to {sizes[-1]}" if sizes else "one image size")
        if self.changed_matcher:
            words.append("matching by score and IoU")
        if self.restarts:
            words.append("from the best weights so far")
        alone = self.end - self.first == 1
        epochs = f"epoch {self.first}" if alone else f"epochs {self.first}-{self.end - 1}"
        return f"{epochs}  {', '.join(words)}"


@dataclass(frozen=True, slots=True)
class Window:
    """Epochs from `first` up to, not including, `end`, and how often something happens in them."""

    first: int
    end: float
    share: float = 1.0

    def at(self, epoch: int) -> float:
        """The share in force in `epoch`; 0 outside."""
        return self.share if self.first <= epoch < self.end else 0.0


def image_sizes_of(collate: Mapping[str, Any]) -> tuple[Size, ...]:
    """Sizes that the collate function draws from; empty where multi-scale is off.

    RT-DETRv2 lists them (`scales`); the others derive multiples of 32 from 0.75 to 1.25 of the
    base, with the base itself `base_size_repeat` times, so that it is drawn more often.
    """
    scales = collate.get("scales")
    if scales:
        return tuple(side if isinstance(side, int) else (side[0], side[1]) for side in scales)
    repeat, base = collate.get("base_size_repeat"), collate.get("base_size", 640)
    if repeat is None:
        return ()
    return tuple(generate_scales(base if isinstance(base, int) else max(base), repeat))


def matcher_of(tree: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The dotted key of the matcher's arguments, and these; empty where there are none."""
    key, section = "", tree
    for slot in ("criterion", "matcher"):
        value = section.get(slot)
        key = f"{key}.{slot}" if key else slot
        if isinstance(value, str):
            key, value = value, tree.get(value)
        section = value if isinstance(value, Mapping) else {}
    return key, section


def matcher_change(tree: Mapping[str, Any]) -> int | None:
    """The epoch from which the matcher uses its second cost; None: never."""
    _, matcher = matcher_of(tree)
    epoch = matcher.get("matcher_change_epoch")
    return int(epoch) if matcher.get("change_matcher") and epoch is not None else None


def restart_epoch(tree: Mapping[str, Any], epochs: int) -> int | None:
    """The epoch that begins with the best weights so far; None: no epoch does."""
    stop = collate_of(tree).get("stop_epoch")
    if stop is None or tree.get("restart_from_best") is False or not 0 < int(stop) < epochs:
        return None
    return int(stop)


def stages_of(
    tree: Mapping[str, Any], epochs: int, *, ema_decay: float, late_ema_decay: float
) -> tuple[Stage, ...]:
    """The stages, in order and without gaps, from epoch 0 to `epochs`.

    Args:
        tree: the resolved configuration.
        epochs: of the run, at least 1.
        ema_decay: before the restart.
        late_ema_decay: from the restart on.

    Raises:
        ConfigError: the policy's epochs or a window make no sense.
    """
    collate = collate_of(tree)
    strong, mosaic = _policy(tree)
    mixup = _window(collate, "mixup")
    copyblend = _window(collate, "copyblend")
    sizes, stop = image_sizes_of(collate), collate.get("stop_epoch")
    multi_scale = Window(0, epochs if stop is None else int(stop))
    restart = restart_epoch(tree, epochs)
    change = matcher_change(tree)
    changed = Window(epochs if change is None else change, epochs)
    refine = Window(epochs if restart is None else restart, epochs)
    windows = [strong, mosaic, mixup, copyblend, changed, refine, *([multi_scale] if sizes else [])]

    edges = sorted({0, epochs, *(int(e) for e in _edges(windows) if 0 < e < epochs)})
    stages: list[Stage] = []
    for first, end in pairwise(edges):
        late, is_strong = bool(refine.at(first)), bool(strong.at(first))
        dense = any(window.at(first) for window in (mosaic, mixup, copyblend))
        kind = "dense" if dense else "strong" if is_strong else "light"
        stages.append(
            Stage(
                name="train" if len(edges) == 2 else "refine" if late else f"{kind} augmentation",
                first=first,
                end=end,
                strong_augmentation=is_strong,
                image_sizes=sizes if multi_scale.at(first) else (),
                ema_decay=late_ema_decay if late else ema_decay,
                restarts=late,
                mosaic=mosaic.at(first),
                mixup=mixup.at(first),
                copyblend=copyblend.at(first),
                changed_matcher=bool(changed.at(first)),
            )
        )
    return tuple(stages)


def transforms_of(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The training data's `transforms`, or an empty section."""
    section = (tree.get("train_dataloader") or {}).get("dataset") or {}
    transforms = section.get("transforms")
    return transforms if isinstance(transforms, Mapping) else {}


def collate_of(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The training data's `collate_fn`, or an empty section."""
    return (tree.get("train_dataloader") or {}).get("collate_fn") or {}


def _policy(tree: Mapping[str, Any]) -> tuple[Window, Window]:
    """When the policy's operations are on, and when mosaics are made."""
    transforms = transforms_of(tree)
    policy = transforms.get("policy") or {}
    mosaics = [op for op in transforms.get("ops") or () if _is_mosaic(op)]
    share = float(mosaics[0].get("probability", 1.0)) if mosaics else 0.0
    epoch = policy.get("epoch") if policy.get("name") == "stop_epoch" else None
    if epoch is None:
        return Window(0, float("inf")), Window(0, float("inf"), share)
    if isinstance(epoch, int):
        strong = Window(0, epoch)
        stops = "Mosaic" in (policy.get("ops") or ())
        return strong, Window(0, epoch if stops else float("inf"), share)
    if not (isinstance(epoch, Sequence) and [type(e) for e in epoch] == [int] * 3):
        raise ConfigError(
            f"train_dataloader.dataset.transforms.policy.epoch: {epoch!r} is neither one epoch "
            "nor three",
            hint="[4, 29, 50] is strong augmentation from 4 to 50 with mosaic until 29",
        )
    start, middle, end = epoch
    share *= max(float(transforms.get("mosaic_prob", 0.0)), 0.0)
    return Window(start, end), Window(start, middle, share)


def _is_mosaic(op: Any) -> bool:
    return isinstance(op, Mapping) and op.get("type") == "Mosaic"


def _window(collate: Mapping[str, Any], name: str) -> Window:
    share = float(collate.get(f"{name}_prob") or 0.0)
    epochs = collate.get(f"{name}_epochs") or (0, 0)
    if not share:
        return Window(0, 0, 0.0)
    if not isinstance(epochs, Sequence) or len(epochs) < 2:
        raise ConfigError(
            f"train_dataloader.collate_fn.{name}_epochs: {epochs!r} is not [first, end]"
        )
    return Window(int(epochs[0]), int(epochs[-1]), share)


def _edges(windows: Sequence[Window]) -> Iterator[float]:
    """Epochs at which a window that happens at all opens or closes."""
    for window in windows:
        if window.share and window.first < window.end:
            yield from (window.first, window.end)
