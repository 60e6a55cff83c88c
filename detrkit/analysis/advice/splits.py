"""Splits that overlap, differ, or are too small."""

from __future__ import annotations

import math
from collections.abc import Iterator

from detrkit.analysis.advice.kinds import Advice, Severity
from detrkit.analysis.advice.words import counted, listed_classes, percent
from detrkit.analysis.duplicates import Sameness
from detrkit.analysis.findings import Findings

#: Images below which a validation split says little.
FEW_VAL_IMAGES = 100


def leaks(findings: Findings) -> Iterator[Advice]:
    """The same pictures in two splits."""
    for (a, b), count in findings.duplicates.leaks.items():
        share = count / findings.splits[b].images
        yield Advice(
            "leak",
            Severity.WARNING,
            f"{counted(count, 'image')} of `{b}` ({percent(share)}) "
            f"{'is' if count == 1 else 'are'} in `{a}` as well, or nearly so. "
            + (
                "Scores on pictures that were trained on prove nothing."
                if a == "train"
                else "What is chosen on one is no longer independent of the other."
            ),
            (
                f"remove them from `{a}`, or split again by scene or recording; --json lists them"
                if share < 0.5
                else "split again, by scene or recording"
            ),
        )


def surplus(findings: Findings) -> Iterator[Advice]:
    """Copies inside a split."""
    counts, total = findings.duplicates.surplus, max(findings.together.images, 1)
    versions = counts.get(Sameness.SOURCE, 0)
    copies = sum(counts.values()) - versions - sum(findings.duplicates.leaks.values())
    if copies > 0.01 * total:
        yield Advice(
            "duplicate-images",
            Severity.HINT if copies > 0.1 * total else Severity.NOTE,
            f"About {counted(copies, 'image')} ({percent(copies / total)}) repeat another of the "
            "same split, or nearly so, e.g. frames of a still scene: they weigh double in "
            "training, and a validation split is smaller than it looks.",
        )
    if versions:
        yield Advice(
            "image-versions",
            Severity.NOTE,
            f"{counted(versions, 'image')} ({percent(versions / total)}) "
            f"{'is a further version' if versions == 1 else 'are further versions'} of other "
            "pictures, made by Roboflow (`.rf.` in their names). Training augments by itself: an "
            "export without augmentation trains on the same pictures and is smaller.",
        )


def classes_of_splits(findings: Findings) -> Iterator[Advice]:
    """Classes that one split lacks, or holds in other shares."""
    for difference in findings.differences:
        if difference.first != "train":
            continue
        name = difference.second
        if difference.only_second:
            yield Advice(
                "class-missing-in-train",
                Severity.WARNING,
                f"{listed_classes(difference.only_second)} in `{name}` but not in `train`: "
                "never learned, yet counted with AP 0.",
            )
        if difference.only_first:
            yield Advice(
                "class-missing-in-val",
                Severity.HINT,
                f"{listed_classes(difference.only_first)} in `train` but not in `{name}`: nothing "
                "says how well they are found.",
            )
        if difference.shifts:
            worst = ", ".join(
                f"`{s.name}` ({percent(s.first)} of the images of `train`, {percent(s.second)} "
                f"of `{name}`)"
                for s in difference.shifts[:3]
            )
            yield Advice(
                "split-classes",
                Severity.HINT,
                f"{counted(len(difference.shifts), 'class')} "
                f"{'is' if len(difference.shifts) == 1 else 'are'} clearly more or less frequent "
                f"in `{name}` than in `train`, beyond chance: {worst}.",
                "split again at random, or by recording",
            )
    unused = [c.name for c in findings.together.classes if not c.boxes]
    if unused and len(unused) < len(findings.together.classes):
        yield Advice(
            "unused-classes",
            Severity.NOTE,
            f"{listed_classes(unused)} declared but without a box anywhere. AP leaves them out.",
        )


def split_scale(findings: Findings) -> Iterator[Advice]:
    """Objects or pictures of another size in one split."""
    for difference in findings.differences:
        if difference.first != "train":
            continue
        ratio, pixels = difference.scale_ratio, difference.pixel_ratio
        name = difference.second
        if ratio == ratio and not 1 / 1.5 < ratio < 1.5:
            yield Advice(
                "split-scale",
                Severity.WARNING,
                f"The median object of `{name}` is {ratio:.2g} times as large at the input as that "
                "of `train`: the splits are no samples of the same thing.",
                "split again at random, or by recording",
            )
        elif pixels == pixels and not 0.5 < pixels < 2:
            yield Advice(
                "split-resolution",
                Severity.HINT,
                f"The pictures of `{name}` are {pixels:.2g} times as large (median side) as those "
                "of `train`: one of them may have been scaled down.",
            )


def validation(findings: Findings) -> Iterator[Advice]:
    """A validation split that is missing, or too small to compare runs."""
    val = findings.val
    if val is None:
        train = findings.train
        if train is not None and train.images > 1 and not findings.partial:
            yield Advice(
                "no-validation",
                Severity.HINT,
                "There is no validation split: without one nothing tells when training is good.",
                "--val-fraction 0.1 holds images out",
            )
        return
    counts = [c.boxes for c in val.classes if c.boxes]
    if not counts:
        return
    # binomial error of a share near 1/2 in each class; the mean over classes averages it
    error = 50 * math.sqrt(sum(1 / n for n in counts)) / len(counts)
    if error > 1.5 or val.images < FEW_VAL_IMAGES:
        yield Advice(
            "validation-noise",
            Severity.HINT,
            f"`val` holds {counted(val.images, 'image')} and {counted(val.boxes, 'box')} of "
            f"{counted(len(counts), 'class')}. The number of objects alone makes a score uncertain "
            f"by about {error:.1f} points: one standard error, averaged over classes, of objects "
            "that are found with probability 1/2, each for itself. Objects of one image are not "
            "independent, so it is more. Smaller differences between runs say nothing.",
        )
