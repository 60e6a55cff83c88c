"""Differences between detectors, what is chance about them, and who is best at what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from detrkit import words
from detrkit.engine.comparison.inputs import Entry
from detrkit.engine.run_log import best_row
from detrkit.errors import DataError, UsageError
from detrkit.metrics.bootstrap import (
    CONFIDENCE,
    FEW_IMAGES,
    NUMBERS,
    SAMPLES,
    Draws,
    Floats,
    Interval,
    bootstrap,
    difference_interval,
    draw,
    interval,
)
from detrkit.metrics.coco import METRIC_NAMES, count
from detrkit.metrics.matching import Matches, match
from detrkit.metrics.truth import Truth

#: Numbers counted afresh and those that were logged may differ by rounding only.
_SAME = 1e-4

#: Differences are told to so much.
_SHOWN = 0.001

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Delta:
    """A difference; positive: better.

    Attributes:
        value: of two numbers.
        interval: where it lies on 95 % of the draws; None without draws.
    """

    value: float
    interval: Interval | None = None

    @property
    def significant(self) -> bool | None:
        """Whether it is more than chance; None where that is not known."""
        return None if self.interval is None else self.interval.excludes_zero


@dataclass(frozen=True)
class Model:
    """The numbers of one entry.

    Attributes:
        entry: where they come from.
        metrics: COCO's numbers, -1 where there is nothing to count.
        classes: {class: AP}.
        intervals, class_intervals: of those, where there are draws.
        recounted: whether the numbers were counted from detections here.
    """

    entry: Entry
    metrics: Mapping[str, float]
    classes: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    class_intervals: Mapping[str, Interval] = field(default_factory=dict)
    recounted: bool = False

    @property
    def name(self) -> str:
        """Of the entry."""
        return self.entry.name

    @property
    def best_epoch(self) -> int | None:
        """From 1; None where it is no run."""
        best = best_row(self.entry.rows)
        return None if best is None else int(best["epoch"]) + 1


@dataclass(frozen=True, slots=True)
class Winner:
    """The best at a class.

    Attributes:
        name: of the model; None where several are equal or none is defined.
        lead: over the second.
    """

    name: str | None
    lead: Delta | None


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; the first model is the baseline of all differences.

    Attributes:
        models: in the order given.
        differences: {name of a model but the first: {number: difference}}.
        class_differences: likewise {class: difference} of AP.
        boxes: {class: boxes}, in the order of the data set.
        winners: {class: the best}.
        images: that all were measured on; None where it is not known.
        samples, seed: of the bootstrap; 0 samples: there was none.
        notes: what to know about the numbers.
    """

    models: Sequence[Model]
    differences: Mapping[str, Mapping[str, Delta]]
    class_differences: Mapping[str, Mapping[str, Delta]]
    boxes: Mapping[str, int]
    winners: Mapping[str, Winner]
    images: int | None
    samples: int
    seed: int
    notes: Sequence[str]

    def sentences(self) -> list[str]:
        """What the differences in AP mean, one sentence per model."""
        first = self.models[0].name
        told = []
        for name, deltas in self.differences.items():
            delta = deltas.get("AP")
            if delta is None:
                told.append(f"{name} and {first}: AP is not defined for both")
                continue
            word = "better" if delta.value > 0 else "worse"
            text = f"{name} is {abs(delta.value):.3f} AP {word} than {first}"
            if abs(delta.value) < _SHOWN:
                text = f"{name} has the AP of {first}, to {_SHOWN}"
            if delta.interval is None:
                told.append(f"{text}; whether that is chance is not known")
                continue
            limits = f"{delta.interval.low:+.3f} to {delta.interval.high:+.3f}"
            verdict = "significant" if delta.significant else "not significant: it may be chance"
            told.append(f"{text} ({CONFIDENCE:.0%} interval {limits}): {verdict}")
        return told

    @property
    def method(self) -> str:
        """How the intervals were made, in a sentence; empty without."""
        if not self.samples:
            return ""
        return (
            f"In brackets and starred: {CONFIDENCE:.0%} intervals of {self.samples} draws of the "
            f"{self.images} images with replacement, the same draws for all (paired bootstrap, "
            f"seed {self.seed}). They say what other test images might, not what another training "
            "seed might."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "baseline": self.models[0].name,
            "models": [_model(m) for m in self.models],
            "differences": [
                {
                    "model": name,
                    "metrics": {k: _delta(d) for k, d in deltas.items()},
                    "classes": {k: _delta(d) for k, d in self.class_differences[name].items()},
                }
                for name, deltas in self.differences.items()
            ],
            "winners": {
                name: {"boxes": self.boxes.get(name), "model": winner.name,
                       "lead": None if winner.lead is None else _delta(winner.lead)}
                for name, winner in self.winners.items()
            },
            "bootstrap": {"samples": self.samples, "seed": self.seed, "confidence": CONFIDENCE,
                          "images": self.images} if self.samples else None,
            "conclusions": self.sentences(),
            "notes": list(self.notes),
        }  # fmt: skip


def compare(
    entries: Sequence[Entry],
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Compares entries with the first of them.

    Args:
        entries: at least two.
        samples: draws of the bootstrap; 0: no intervals.
        seed: of the draws.
        progress: called with classes done and all, over all models.

    Raises:
        UsageError: fewer than two.
        DataError: they have no class in common, or one has no numbers.
    """
    if len(entries) < 2:
        raise UsageError("a comparison needs at least two", hint="detrkit compare RUN RUN")
    notes: list[str] = []
    matches = [_matched(entry) for entry in entries]
    models = [_measured(entry, own, notes) for entry, own in zip(entries, matches, strict=True)]
    _check_classes(models)
    notes += [f"{e.name} learned from a teacher: {e.teacher}" for e in entries if e.teacher]
    reason = _unpaired(entries)
    if reason:
        notes.append(reason)
    draws: list[Draws | None] = [None] * len(models)
    complete = [own for own in matches if own is not None]
    if samples and not reason and len(complete) == len(models):
        images = len(complete[0].truth)
        if images < FEW_IMAGES:
            notes.append(f"{words.count(images, 'image')}: too few for intervals to be exact")
        weights = draw(images, samples, seed)
        draws = []
        for number, own in enumerate(complete):
            step = _part(progress, number, len(complete))
            draws.append(bootstrap(own, weights, step))
        models = [_with_intervals(m, d) for m, d in zip(models, draws, strict=True)]
        rare = [n for n in NUMBERS if n not in models[0].intervals and models[0].metrics[n] >= 0]
        if rare:
            notes.append(f"no intervals of {', '.join(rare)}: so few boxes that draws have none")
    else:
        samples = 0
        for entry in entries:
            if entry.gap:
                notes.append(f"{entry.name}: no intervals: {entry.gap}")
    first, others = models[0], range(1, len(models))
    return Comparison(
        models=models,
        differences={
            models[i].name: {
                name: Delta(b - a, _difference(draws[i], draws[0], name))
                for name in METRIC_NAMES
                if (a := first.metrics.get(name, -1)) >= 0
                and (b := models[i].metrics.get(name, -1)) >= 0
            }
            for i in others
        },
        class_differences={
            models[i].name: {
                name: Delta(models[i].classes[name] - value, _of_class(models, draws, i, 0, name))
                for name, value in first.classes.items()
                if value >= 0 and models[i].classes.get(name, -1) >= 0
            }
            for i in others
        },
        boxes=_boxes(models),
        winners={name: _winner(models, draws, name) for name in _boxes(models)},
        images=len(complete[0].truth) if complete and not reason else None,
        samples=samples,
        seed=seed,
        notes=notes,
    )


def _part(progress: Progress | None, number: int, models: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, models * total)


def _matched(entry: Entry) -> Matches | None:
    if entry.truth is None or entry.predictions is None:
        return None
    return match(entry.truth, entry.predictions.by_image())


def _measured(entry: Entry, matches: Matches | None, notes: list[str]) -> Model:
    if matches is None or entry.truth is None or entry.predictions is None:
        if not entry.stated:
            raise DataError(
                f"{entry.path}: no epoch was evaluated, so there is nothing to compare",
                hint="measure its weights: detrkit eval -w best.pth -o DIR",
            )
        classes = {name: ap for name, (_, ap) in entry.stated_classes.items()}
        return Model(entry, entry.stated, classes)
    found = count(entry.truth, entry.predictions.by_image(), "detrkit", matches)
    stated = entry.stated.get("AP")
    if stated is not None and abs(stated - found["AP"]) > _SAME:
        notes.append(
            f"{entry.name}: its detections have AP {found['AP']:.4f} on this ground truth, its own "
            f"{'log' if entry.kind == 'run' else 'report'} says {stated:.4f}: other annotations "
            "than it was measured on?"
        )
    return Model(entry, found.values, {row.name: row.ap for row in found.classes}, recounted=True)


def _check_classes(models: Sequence[Model]) -> None:
    """Raises `DataError` where classes are known and none is shared."""
    first = models[0]
    for other in models[1:]:
        if first.classes and other.classes and not set(first.classes) & set(other.classes):
            raise DataError(
                f"{first.name} and {other.name} have no class in common "
                f"({_listed(first.classes)}; {_listed(other.classes)})",
                hint="compare what was measured on the same data",
            )


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(list(names)[:3]) + (", …" if len(names) > 3 else "")


def _unpaired(entries: Sequence[Entry]) -> str:
    """Why the entries were not measured on the same ground truth; empty if they were."""
    first = entries[0]
    for other in entries[1:]:
        why = ""
        if first.truth is not None and other.truth is not None:
            why = _other_truth(first.truth, other.truth)
        elif first.stated_classes and other.stated_classes:
            a = {name: boxes for name, (boxes, _) in first.stated_classes.items()}
            b = {name: boxes for name, (boxes, _) in other.stated_classes.items()}
            why = "" if a == b else "other numbers of boxes per class"
        if why:
            return (
                f"{first.name} and {other.name} were measured on different data ({why}): their "
                "differences are also those of the data; --data names one ground truth for all"
            )
    return ""


def _other_truth(a: Truth, b: Truth) -> str:
    if a is b:
        return ""
    if a.class_map.names != b.class_map.names:
        return f"classes {_listed(dict.fromkeys(a.class_map.names))} and " + _listed(
            dict.fromkeys(b.class_map.names)
        )
    if len(a) != len(b):
        return f"{len(a)} and {words.count(len(b), 'image')}"
    if a.image_ids != b.image_ids:
        return "other images"
    columns = ("images", "labels", "boxes_xywh", "iscrowd", "area")
    same = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in columns)
    return "" if same else "other boxes"


def _with_intervals(model: Model, draws: Draws | None) -> Model:
    assert draws is not None
    limits = {name: interval(model.metrics[name], draws.overall(name)) for name in NUMBERS}
    own = {
        name: interval(ap, draws.classes["AP"][:, k])
        for k, (name, ap) in enumerate(model.classes.items())
    }
    return Model(
        model.entry,
        model.metrics,
        model.classes,
        {name: found for name, found in limits.items() if found is not None},
        {name: found for name, found in own.items() if found is not None},
        model.recounted,
    )


def _difference(a: Draws | None, b: Draws | None, name: str) -> Interval | None:
    if a is None or b is None or name not in NUMBERS:
        return None
    return difference_interval(a.overall(name) - b.overall(name))


def _of_class(
    models: Sequence[Model], draws: Sequence[Draws | None], a: int, b: int, name: str
) -> Interval | None:
    """Of the difference of two models in one class."""
    values: list[Floats] = []
    for number in (a, b):
        found = draws[number]
        if found is None:
            return None
        values.append(found.classes["AP"][:, list(models[number].classes).index(name)])
    return difference_interval(values[0] - values[1])


def _boxes(models: Sequence[Model]) -> dict[str, int]:
    """Classes that any model has, with the boxes of the first that knows."""
    found: dict[str, int] = {}
    for model in models:
        truth = model.entry.truth
        if truth is not None:
            own = dict(zip(truth.class_map.names, truth.boxes_per_class.tolist(), strict=True))
        else:
            own = {name: boxes for name, (boxes, _) in model.entry.stated_classes.items()}
        found = {**own, **found}
    return found


def _winner(models: Sequence[Model], draws: Sequence[Draws | None], name: str) -> Winner:
    values = [(m.classes.get(name, -1.0), -i) for i, m in enumerate(models)]
    ranked = sorted((pair for pair in values if pair[0] >= 0), reverse=True)
    if len(ranked) < 2:
        return Winner(None, None)
    (best, a), (second, b) = ranked[:2]
    if best == second:
        return Winner(None, Delta(0.0))
    lead = Delta(best - second, _of_class(models, draws, -a, -b, name))
    return Winner(models[-a].name, lead)


def _delta(delta: Delta) -> dict[str, Any]:
    limits = delta.interval
    return {
        "delta": delta.value,
        "low": None if limits is None else limits.low,
        "high": None if limits is None else limits.high,
        "significant": delta.significant,
    }


def _model(model: Model) -> dict[str, Any]:
    entry = model.entry
    return {
        "name": entry.name,
        "path": entry.path,
        "kind": entry.kind,
        "metrics": dict(model.metrics),
        "intervals": {name: asdict(found) for name, found in model.intervals.items()},
        "classes": dict(model.classes),
        "class_intervals": {name: asdict(f) for name, f in model.class_intervals.items()},
        "recounted": model.recounted,
        "epochs": len(entry.rows) or None,
        "best_epoch": model.best_epoch,
        "parameters": entry.parameters,
        "flops": entry.flops,
        "milliseconds": entry.milliseconds,
    }
