"""What training has to cope with: rare classes, few images, mosaics of large objects."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator

from detrkit.analysis.advice.kinds import Advice, Severity
from detrkit.analysis.advice.words import counted, percent
from detrkit.analysis.findings import Findings

#: Images below which a class is rare.
FEW_IMAGES = 20
#: Most frequent over least frequent class.
IMBALANCE = 10.0
#: Images below which training from random heads has little to go by.
SMALL_DATA = 2000


def rare_classes(findings: Findings) -> Iterator[Advice]:
    """Imbalance, and classes with few images."""
    split = findings.train
    present = [c for c in split.classes if c.boxes] if split is not None else []
    if split is None or len(present) < 2:
        return
    most = max(present, key=lambda c: c.boxes)
    least = min(present, key=lambda c: c.boxes)
    if most.boxes >= IMBALANCE * least.boxes:
        yield Advice(
            "class-imbalance",
            Severity.HINT,
            f"`{most.name}` has {most.boxes / least.boxes:.0f} times the boxes of `{least.name}` "
            f"({most.boxes} and {least.boxes}). AP weighs classes equally, so rare ones decide it "
            "as much as frequent ones. Focal and MAL losses soften the imbalance; more pictures "
            "of the rare classes help most.",
        )
    rare = sorted((c for c in present if c.images < FEW_IMAGES), key=lambda c: c.images)
    if rare:
        names = ", ".join(f"`{c.name}` {c.images}" for c in rare[:5])
        yield Advice(
            "rare-classes",
            Severity.HINT,
            f"{counted(len(rare), 'class')} of {len(present)} in fewer than {FEW_IMAGES} images of "
            f"`{split.name}`: {names}{', …' if len(rare) > 5 else ''}. Start from weights that "
            "know them, or collect more.",
            "detrkit tune CFG --weights FILE",
        )


def schedule(findings: Findings) -> Iterator[Advice]:
    """Few batches."""
    train, setup = findings.train, findings.setup
    if train is None or not train.images:
        return
    batches = train.images // setup.batch
    if not batches:
        yield Advice(
            "batch",
            Severity.WARNING,
            f"`train` holds {counted(train.images, 'image')}, fewer than "
            f"{'one' if setup.source else 'a usual'} batch of {setup.batch}.",
            f"--batch {max(1, 2 ** int(math.log2(max(train.images // 4, 1))))}",
        )
    elif train.images < SMALL_DATA:
        length = (
            f"{setup.epochs} epochs are {batches * setup.epochs} steps"
            if setup.epochs
            else f"100 epochs are {100 * batches} steps"
        )
        yield Advice(
            "small-data",
            Severity.HINT,
            f"`train` holds {counted(train.images, 'image')}: {counted(batches, 'batch')} of "
            f"{setup.batch} per epoch, {length}; the authors' recipes take 100 000 and more. Start "
            "from pretrained weights: they usually matter more here than the choice of the model.",
            "detrkit tune CFG --weights FILE --data " + shlex.quote(findings.source),
        )


def mosaic(findings: Findings) -> Iterator[Advice]:
    """Large objects under an augmentation that cuts and shrinks."""
    split, setup = findings.train, findings.setup
    if split is None or not split.boxes:
        return
    if setup.mosaic is not False and split.coverage.median > 0.5:
        yield Advice(
            "mosaic-large-objects",
            Severity.NOTE,
            f"The median object is {percent(split.coverage.median)} as long as its image's side. "
            "Mosaic shows four pictures at half the size and cuts objects at their borders, which "
            "helps small objects most"
            + (": this recipe uses it." if setup.mosaic else "; DEIM's recipes use it."),
            "-u train_dataloader.dataset.transforms.mosaic_prob=0 to compare",
        )
