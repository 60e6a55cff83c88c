"""Which images an epoch shows, and how often: all once, or those of rare classes more often.

Every order is a function of (seed, epoch) alone, the same for any number of processes, and every
epoch has the same length, so that the plan of a run can count on it.

Repeat factors: Gupta et al., "LVIS", CVPR 2019, arXiv:1908.03195. Class-aware sampling: Shen et
al., "Relay Backpropagation", ECCV 2016, arXiv:1512.05830.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from detrkit.data.index import DatasetIndex
from detrkit.errors import ConfigError
from detrkit.words import count

Sampling = Literal["repeat_factor", "class_balanced"]
Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: The threshold of LVIS: classes in less than a thousandth of its images are rare.
LVIS_THRESHOLD = 0.001

_STREAM = 0x0DE2


class EpochOrder(Protocol):
    """The images of an epoch."""

    def __len__(self) -> int:
        """Images per epoch, repetitions counted."""

    def order(self, epoch: int) -> Numbers:
        """(len,) numbers of images in the order of `epoch`."""


@dataclass(frozen=True)
class InOrder:
    """Every image once, in the order of the data set.

    Attributes:
        count: images of it.
    """

    count: int

    def __len__(self) -> int:
        return self.count

    def order(self, epoch: int) -> Numbers:
        """The same in every epoch."""
        return np.arange(self.count)


@dataclass(frozen=True)
class Shuffled:
    """Every image once, in random order.

    Attributes:
        count: images of the data set.
        seed: of the order.
    """

    count: int
    seed: int = 0

    def __len__(self) -> int:
        return self.count

    def order(self, epoch: int) -> Numbers:
        """A new permutation in every epoch."""
        return np.random.default_rng([self.seed, epoch, _STREAM]).permutation(self.count)


@dataclass(frozen=True)
class Repeated:
    """Images as often as they are wanted on average, in random order.

    An image that is wanted 2.3 times comes twice in most epochs and three times in three of ten.
    The numbers are drawn by systematic sampling (Madow, 1949) over the images in random order:
    each is the one below or above its average, and their sum is the same in every epoch.

    Attributes:
        wanted: (N,) how often each image is to come in an epoch, on average.
        seed: of numbers and order.
    """

    wanted: Floats
    seed: int = 0

    @cached_property
    def _length(self) -> int:
        return max(int(np.ceil(self.wanted.sum() - 1e-6)), 1)

    def __len__(self) -> int:
        return self._length

    def order(self, epoch: int) -> Numbers:
        """New numbers and a new order in every epoch."""
        rng = np.random.default_rng([self.seed, epoch, _STREAM])
        images = rng.permutation(len(self.wanted))
        ends = np.cumsum(self.wanted[images])
        # as many marks as the epoch has images, at equal distances on a line of all averages
        marks = (np.arange(len(self)) + rng.random()) * (ends[-1] / len(self))
        drawn = images[np.minimum(np.searchsorted(ends, marks, side="right"), len(images) - 1)]
        return rng.permutation(drawn)


@dataclass(frozen=True)
class Presence:
    """Which classes are in which images, crowd regions left out.

    Attributes:
        images: (P,) number of an image, of each pair.
        classes: (P,) a class that is in it, each once.
        total: images in the data set.
        names: of the classes.
    """

    images: Numbers
    classes: Numbers
    total: int
    names: tuple[str, ...]

    @classmethod
    def of(cls, index: DatasetIndex) -> Presence:
        """Reads an index."""
        owners = np.repeat(np.arange(len(index)), np.diff(index.offsets))[~index.iscrowd]
        width = max(len(index.class_map), 1)
        pairs = np.unique(owners * width + index.labels[~index.iscrowd])
        return cls(pairs // width, pairs % width, len(index), tuple(index.class_map.names))

    @cached_property
    def images_of(self) -> Numbers:
        """(classes,) how many images have each class."""
        return np.bincount(self.classes, minlength=len(self.names))


def repeat_factors(presence: Presence, threshold: float | None = None) -> Floats:
    """How often each image comes in an epoch: once, or more for the rarest class in it.

    r = max(1, max over its classes of sqrt(threshold / f)), where f is the share of the images
    that have the class (Gupta et al.). Images without boxes come once.

    Args:
        presence: of the data.
        threshold: classes in a smaller share of the images are rare. None: the median share of
            all classes, so that the rarer half is repeated; at least LVIS's 0.001, which no class
            of a small data set is ever below.
    """
    share = presence.images_of / max(presence.total, 1)
    if threshold is None:
        known = share[share > 0]
        threshold = max(float(np.median(known)), LVIS_THRESHOLD) if len(known) else LVIS_THRESHOLD
    factors = np.sqrt(threshold / np.maximum(share, 1e-12))
    wanted = np.ones(presence.total)
    np.maximum.at(wanted, presence.images, factors[presence.classes])
    return wanted


def balanced_shares(presence: Presence) -> Floats:
    """How often each image comes in an epoch of as many images, if all classes come equally often.

    As if, for each place of the epoch, a class were drawn and then one of its images (Shen et
    al.): an image's weight is the sum over its classes of 1 / (images with the class). Images
    without boxes belong to no class and come once, as without balancing.
    """
    weights = np.zeros(presence.total)
    np.add.at(weights, presence.images, 1.0 / presence.images_of[presence.classes])
    empty = weights == 0
    filled = presence.total - int(empty.sum())
    return np.where(empty, 1.0, weights * (filled / max(weights.sum(), 1e-12)))


def sampled_order(
    sampling: Sampling, index: DatasetIndex, *, threshold: float | None = None, seed: int = 0
) -> Repeated:
    """The order that `sampling` names, over a data set.

    Args:
        sampling: "repeat_factor" or "class_balanced".
        index: its images.
        threshold: of `repeat_factor`, see `repeat_factors`.
        seed: of the order.

    Raises:
        ConfigError: the threshold is not a share of the images.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise ConfigError(f"sampling_threshold: must be above 0 and at most 1, got {threshold}")
    presence = Presence.of(index)
    if sampling == "repeat_factor":
        return Repeated(repeat_factors(presence, threshold), seed)
    return Repeated(balanced_shares(presence), seed)


def repeat_numbers(order: Numbers) -> Numbers:
    """How often each image of an epoch's order was there before: [4, 1, 4, 4] -> [0, 0, 1, 2]."""
    by_image = np.argsort(order, kind="stable")
    images = order[by_image]
    first = np.searchsorted(images, images, side="left")
    numbers = np.empty(len(order), np.int64)
    numbers[by_image] = np.arange(len(order)) - first
    return numbers


def describe(sampling: Sampling, order: Repeated, index: DatasetIndex) -> str:
    """`sampling repeat_factor: 205 images, 240 per epoch; mast 3.1 times as often, …`."""
    presence = Presence.of(index)
    shown = np.bincount(
        presence.classes, weights=order.wanted[presence.images], minlength=len(presence.names)
    )
    ratio = shown / np.maximum(presence.images_of, 1)
    more = [k for k in np.argsort(-ratio, kind="stable")[:3] if ratio[k] > 1.05]
    which = [f"{presence.names[k]} {ratio[k]:.2g} times" for k in more]
    return f"sampling {sampling}: {count(len(index), 'image')}, {len(order)} per epoch; " + (
        f"{', '.join(which)} as often" if which else "no class comes more often"
    )
