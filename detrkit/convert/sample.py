"""Choosing some of the images, with a seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detrkit.convert.partition import Boxes, divide
from detrkit.errors import UsageError

_STREAM = 0x5A3B


def choose(
    boxes: Boxes, count: int, *, seed: int = 0, stratify: bool = False
) -> npt.NDArray[np.int64]:
    """Rows of `count` images, in order.

    Args:
        boxes: classes of the images.
        count: how many.
        seed: equal seeds give equal images.
        stratify: keep the shares of the classes, as `divide` does.

    Raises:
        UsageError: there are not so many images.
    """
    if not 0 < count <= boxes.images:
        raise UsageError(f"cannot choose {count} of {boxes.images} images")
    if count == boxes.images:
        return np.arange(count)
    share = count / boxes.images
    parts = divide(boxes, (share, 1 - share), seed=seed, stratify=stratify)
    return np.flatnonzero(parts == 0)


def choose_per_class(boxes: Boxes, count: int, *, seed: int = 0) -> npt.NDArray[np.int64]:
    """Rows of images, in order, so that each class is in `count` of them, or in all it has.

    The rarest class is served first; images chosen for one class count for the others too.
    """
    rng = np.random.default_rng([seed, _STREAM])
    rank = rng.permutation(boxes.images)
    classes = int(boxes.labels.max(initial=-1)) + 1
    owners, kinds = np.divmod(
        np.unique(boxes.owners.astype(np.int64) * classes + boxes.labels), max(classes, 1)
    )
    chosen = np.zeros(boxes.images, bool)
    for kind in np.argsort(np.bincount(kinds, minlength=classes), kind="stable"):
        candidates = owners[kinds == kind]
        missing = count - int(chosen[candidates].sum())
        fresh = candidates[~chosen[candidates]]
        chosen[fresh[np.argsort(rank[fresh])][: max(missing, 0)]] = True
    return np.flatnonzero(chosen)
