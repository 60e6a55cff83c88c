"""How the matching of queries and boxes changes over a training, by its checkpoints.

DN-DETR (Li et al., CVPR 2022, arXiv:2203.01305) measures how unstable bipartite matching is by a
score: V_n^i is the box that query n is matched to in epoch i, -1 for none, and

    IS^i = sum_n 1(V_n^i != V_n^(i-1)), averaged over the images

Two queries change where a box moves from one to the other. In two-stage detectors the number of a
query is only the rank of the encoder's proposal that it starts from, and ranks change with every
step: so a second score counts queries by the position that they come from (`place`), and the share
of boxes that changed hands is told beside it. Within one moment numbers are the same queries in all
layers: how far the layers agree (Stable-DINO, Liu et al., ICCV 2023, arXiv:2304.04742, studies
this) needs no such care.

The longer the gap between two moments, the more changes: compare gaps of equal length.

Shape legend: E moments, N images, T boxes of all images, S judged outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from detrkit.config import Config
from detrkit.data.index import DatasetIndex
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.parts import build_criterion
from detrkit.engine.run_dir import RunDirectory
from detrkit.engine.runtime import choose_device
from detrkit.engine.weights import open_detector
from detrkit.errors import DataError, UsageError
from detrkit.explain.drawn import Drawn
from detrkit.explain.matching import NONE, Matches, Truth, match_images
from detrkit.structures import ClassMap, ImageSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: What makes two queries of two moments the same: their number, or where they come from.
Identity = Literal["query", "place"]


@dataclass(frozen=True)
class Moment:
    """A checkpoint of a run.

    Attributes:
        epochs: that were finished.
        path: the file.
    """

    epochs: int
    path: Path


@dataclass(frozen=True)
class Assignments(Drawn):
    """The matches of the same boxes at several moments.

    Attributes:
        moments: E, in the order of the training.
        matches: of each.
        truth: the boxes and their images.
        class_map: names of the classes.
        spec: how the pictures became the input.
    """

    moments: tuple[Moment, ...]
    matches: tuple[Matches, ...]
    truth: Truth
    class_map: ClassMap
    spec: ImageSpec

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the S judged outputs, the last layer last."""
        return self.matches[0].outputs

    @property
    def epochs(self) -> list[int]:
        """Finished epochs of each moment."""
        return [moment.epochs for moment in self.moments]

    def instability(self, by: Identity = "query") -> Floats:
        """(E - 1, S) DN-DETR's score from each moment to the next.

        Args:
            by: what makes two queries the same.
        """
        return self._between(by, lambda a, b: instability(a, b, self.truth.offsets))

    def changed(self, by: Identity = "place") -> Floats:
        """(E - 1, S) share of the boxes that another query answers for than a moment before."""
        return self._between(by, lambda a, b: float((a != b).mean()) if len(a) else float("nan"))

    @property
    def agreement(self) -> Floats:
        """(E, S) share of the boxes for which an output has the last layer's query."""
        return np.array([(m.queries == m.queries[-1]).mean(1) for m in self.matches])

    @property
    def iou(self) -> Floats:
        """(E, S) mean overlap of matched queries with their boxes."""
        return np.array([_mean(m.iou) for m in self.matches])

    @property
    def scores(self) -> Floats:
        """(E, S) mean score of matched queries for the true class."""
        return np.array([_mean(m.scores) for m in self.matches])

    def restless(self, count: int, most_boxes: int = 15) -> list[int]:
        """The images whose boxes changed hands most often, the most restless first.

        Args:
            count: at most so many.
            most_boxes: more than these make no picture that can be read.
        """
        places = np.stack([m.places[-1] for m in self.matches])
        changes = (np.diff(places, axis=0) != 0).sum(0)
        sums = np.bincount(self.truth.images, changes, minlength=len(self.truth.paths))
        few = np.diff(self.truth.offsets) <= most_boxes
        order = np.argsort(-np.where(few, sums, -1), kind="stable")[:count]
        return [int(image) for image in order if few[image]]

    def figure(self, width: str | float = "page") -> Figure:
        """Instability, changes, agreement and quality over the training."""
        from detrkit.explain.figures.assignments import assignments_figure

        return assignments_figure(self, width)

    def image_figure(
        self, image: int, width: str | float = "page", *, moments: Sequence[int] | None = None
    ) -> Figure:
        """One image with its pairs at some moments: from where the query starts to its box.

        Args:
            image: 0 … N - 1.
            width: as of `figure`.
            moments: which; default up to four, evenly spread.
        """
        from detrkit.explain.figures.assignments import pairs_figure

        return pairs_figure(self, image, width, moments)

    def rows(self) -> list[dict[str, Any]]:
        """One row per moment and output; changes are None at the first moment."""
        since = {
            "instability": self.instability("query"),
            "instability_by_place": self.instability("place"),
            "changed": self.changed("place"),
            "changed_query": self.changed("query"),
        }
        return [
            {
                "epochs": moment.epochs,
                "checkpoint": moment.path.name,
                "output": name,
                **{
                    key: float(values[number - 1, place]) if number else None
                    for key, values in since.items()
                },
                "agreement_with_last_layer": float(self.agreement[number, place]),
                "mean_iou": float(self.iou[number, place]),
                "mean_score": float(self.scores[number, place]),
            }
            for number, moment in enumerate(self.moments)
            for place, name in enumerate(self.outputs)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "images": len(self.truth.paths),
            "boxes": len(self.truth.labels),
            "checkpoints": [str(moment.path) for moment in self.moments],
            "epochs": self.epochs,
            "outputs": list(self.outputs),
            "rows": self.rows(),
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """For an `.npz` file: those of `Matches` with E in front, and the boxes."""
        names = (*Matches.PER_OUTPUT, *Matches.PER_BOX)
        return {
            **{name: np.stack([getattr(m, name) for m in self.matches]) for name in names},
            "epochs": np.array(self.epochs),
            "outputs": np.array(self.outputs),
            "paths": np.array(self.truth.paths),
            "offsets": self.truth.offsets,
            "true_boxes": self.truth.boxes,
            "true_labels": self.truth.labels,
        }

    def _between(self, by: Identity, compare: Callable[[Ints, Ints], float]) -> Floats:
        ids = [m.queries if by == "query" else m.places for m in self.matches]
        rows = [[compare(a, b) for a, b in zip(x, y, strict=True)] for x, y in pairwise(ids)]
        return np.array(rows, np.float64).reshape(-1, len(self.outputs))


def instability(before: Ints, after: Ints, offsets: Ints) -> float:
    """DN-DETR's instability score of the matches of N images. NaN without images.

    Args:
        before: (T,) query of each box; NONE without one.
        after: likewise, later.
        offsets: (N + 1,) where the boxes of each image begin.
    """
    changes = []
    for first, end in pairwise(offsets.tolist()):
        pairs = [
            {query: box for box, query in enumerate(of[first:end].tolist()) if query != NONE}
            for of in (before, after)
        ]
        one, other = pairs
        changes.append(sum(one.get(q, NONE) != other.get(q, NONE) for q in one.keys() | other))
    return float(np.mean(changes)) if changes else float("nan")


def moments_of(sources: Sequence[str | Path], *, averaged: bool = True) -> list[Moment]:
    """The checkpoints of a run, or those that are named, in the order of the training.

    Of a run these are `epoch_*.pth`, `last.pth` and `best.pth`, one per epoch. Files that are named
    are all taken; those that do not say their epoch keep the order given.

    Args:
        sources: the folder of a run, or files.
        averaged: whether averaged weights are wanted; files that hold no others are left out
            otherwise.

    Raises:
        UsageError: there is no such run, or it has no checkpoint.
        WeightsError: a file cannot be read.
    """
    paths = [Path(source).expanduser() for source in sources]
    is_run = any(path.is_dir() for path in paths)
    if is_run:
        if len(paths) > 1:
            raise UsageError(
                "give one run, or several checkpoints", hint="detrkit explain assignments RUN"
            )
        run = RunDirectory(paths[0])
        paths = [*sorted(run.path.glob("epoch_*.pth")), run.last, run.best]
        paths = [path for path in paths if path.is_file() and path != run.epoch_start]
        if not paths:
            raise UsageError(
                f"{run.path}: no checkpoints", hint="give the folder of a run that has trained"
            )
    found: list[Moment] = []
    for path in paths:
        checkpoint = Checkpoint.load(path)
        if not averaged and checkpoint.ema is None and not checkpoint.can_resume:
            continue
        epochs = checkpoint.last_epoch + 1
        if not (is_run and any(moment.epochs == epochs for moment in found)):
            found.append(Moment(epochs, path))
    if not found:
        raise UsageError(
            "none of the checkpoints holds the weights of the training itself",
            hint="leave out --raw: the averaged weights are matched then",
        )
    return sorted(found, key=lambda moment: moment.epochs)


def assignments(
    checkpoints: Sequence[str | Path],
    index: DatasetIndex,
    *,
    config: str | Path | Config | None = None,
    images: int | None = None,
    averaged: bool = True,
    device: str | None = None,
    batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Assignments:
    """Matches the boxes of some images by each checkpoint of a run.

    Args:
        checkpoints: the folder of a run, or files; see `moments_of`.
        index: the data set; images without boxes have nothing to match and are left out.
        config: for checkpoints that carry none.
        images: at most so many, evenly spread; None: all.
        averaged: the averaged weights, which are evaluated; else those that are trained.
        device: default the best one there is.
        batch: images per forward pass.
        progress: called after each checkpoint.

    Raises:
        UsageError, WeightsError: as of `moments_of`; the model cannot be looked into.
        DataError: there is nothing to match.
    """
    moments = moments_of(checkpoints, averaged=averaged)
    some = np.flatnonzero(_boxes_per_image(index))
    if not len(some):
        raise DataError(f"{index.source}: no image has boxes, so there is nothing to match")
    chosen = index.subset(some).spread(images)
    place = choose_device(device)
    matches: list[Matches] = []
    for done, moment in enumerate(moments, 1):
        loaded = open_detector(moment.path, config, averaged=averaged)
        if len(loaded.class_map) != len(index.class_map):
            raise DataError(
                f"{moment.path} knows {len(loaded.class_map)} classes, {index.source} has "
                f"{len(index.class_map)}",
                hint="give checkpoints of one run, and data with its classes",
            )
        found, truth = match_images(
            loaded.model.to(place),
            build_criterion(loaded.config),
            chosen,
            loaded.image_spec,
            epoch=max(moment.epochs - 1, 0),
            batch=batch,
            device=place,
        )
        if matches and len(truth.labels) != matches[0].queries.shape[1]:
            raise DataError(f"{index.source}: images went away while they were matched")
        if matches and found.outputs != matches[0].outputs:
            raise UsageError(
                f"{moment.path} has other decoder layers than {moments[0].path}",
                hint="give checkpoints of one run",
            )
        matches.append(found)
        if progress is not None:
            progress(done, len(moments))
    return Assignments(tuple(moments), tuple(matches), truth, index.class_map, loaded.image_spec)


def _boxes_per_image(index: DatasetIndex) -> Ints:
    """(N,) boxes, crowd regions not counted."""
    kept = np.concatenate([[0], np.cumsum(~index.iscrowd)])
    counts: Ints = kept[index.offsets[1:]] - kept[index.offsets[:-1]]
    return counts


def _mean(values: npt.NDArray[Any]) -> Floats:
    """(S, T) -> (S,) over the boxes that have a query; NaN without any."""
    counts = np.isfinite(values).sum(1)
    sums = np.nan_to_num(values.astype(np.float64)).sum(1)
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
