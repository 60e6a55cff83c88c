"""What each query of a detector does over a data set: where it looks, what it answers.

In DETR a query specialises in places and sizes (Carion et al., ECCV 2020, arXiv:2005.12872,
section 4.3 and figure 7). In the two-stage detectors here a query starts from one of the encoder's
proposals, and its number is the rank of that proposal: the statistics tell how far down the ranks
detections come from, that is how many queries are needed, and which level and place they start at.
Where contents are learned (`learn_query_content`) the number also chooses the content.

Shape legend: N images, Q queries, K classes, T boxes of all images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detrkit.data.index import DatasetIndex
from detrkit.engine.predictor import DEFAULT_SCORE, Predictor
from detrkit.engine.runtime import Runtime
from detrkit.errors import DataError
from detrkit.explain.decoder_trace import Decoded, decoder_of
from detrkit.explain.drawn import Drawn
from detrkit.explain.images import Shown, decoded_batches
from detrkit.explain.layers import network, torch_runtime
from detrkit.explain.ranking import ranking_of
from detrkit.ops.boxes import box_iou, cxcywh_to_xyxy
from detrkit.structures import ClassMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: What a batch of images adds to the statistics: by image, and by true box.
_PER_IMAGE = ("boxes", "start", "scores", "labels", "levels")
_PER_BOX = ("first_proposal", "first_answer")

#: Overlap from which on a proposal or an answer covers a true box.
COVERED = 0.5


@dataclass(frozen=True)
class QueryStatistics(Drawn):
    """All answers of all queries. Boxes are cxcywh, in fractions of the picture.

    Attributes:
        boxes: (N, Q, 4) answers.
        start: (N, Q, 4) the encoder's proposals that the queries start from.
        scores: (N, Q) of the best class, 0–1.
        labels: (N, Q) the best class.
        levels: (N, Q) level of the encoder's maps that the query comes from, 0 the finest.
        strides: pixels of the input per position, level by level.
        first_proposal: (T,) number of the first query whose proposal covers the box; Q: none.
        first_answer: (T,) likewise, with an answer that covers it and is of its class.
        learned: whether contents are learned, so that a number has a meaning of its own.
        conf: score from which on an answer counts as a detection.
        class_map: names of the classes.
        paths: of the N images.
        broken: of images that could not be read.
    """

    boxes: Floats
    start: Floats
    scores: Floats
    labels: Ints
    levels: Ints
    strides: tuple[float, ...]
    first_proposal: Ints
    first_answer: Ints
    learned: bool
    conf: float
    class_map: ClassMap
    paths: tuple[str, ...]
    broken: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """N."""
        return self.boxes.shape[0]

    @property
    def queries(self) -> int:
        """Q."""
        return self.boxes.shape[1]

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """(N, Q) which answers are detections."""
        return self.scores >= self.conf

    @property
    def usage(self) -> Ints:
        """(Q,) detections of each query."""
        return self.found.sum(0)

    @property
    def class_counts(self) -> Ints:
        """(Q, K) detections of each query by class."""
        counts = np.zeros((self.queries, len(self.class_map)), np.int64)
        np.add.at(counts, (np.nonzero(self.found)[1], self.labels[self.found]), 1)
        return counts

    @property
    def inequality(self) -> float:
        """Gini coefficient of `usage`: 0 where all queries detect as much, near 1 where one does.

        NaN without detections.
        """
        return gini(self.usage)

    def needed(self, share: float) -> int:
        """How many of the first queries make so large a share of the detections; 0 without any."""
        total = np.cumsum(self.usage)
        return int(np.searchsorted(total, share * total[-1] - 1e-9) + 1) if total[-1] else 0

    def coverage(self, first: Ints) -> Floats:
        """(Q,) share of the true boxes that the first 1 … Q queries cover; NaN without boxes.

        Args:
            first: `first_proposal` or `first_answer`.
        """
        if not len(first):
            return np.full(self.queries, np.nan, np.float32)
        counts = np.bincount(first, minlength=self.queries + 1)[: self.queries]
        return (np.cumsum(counts) / len(first)).astype(np.float32)

    def rows(self) -> list[dict[str, Any]]:
        """One row of numbers per query; those of its detections are None where it has none."""
        counts = self.class_counts
        return [self._row(query, counts[query]) for query in range(self.queries)]

    def _row(self, query: int, counts: Ints) -> dict[str, Any]:
        hits = self.found[:, query]
        boxes, start = self.boxes[hits, query], self.start[hits, query]
        some = bool(hits.any())
        moved = np.hypot(*(boxes[:, :2] - start[:, :2]).T)
        numbers = {
            "mean_score_of_detections": self.scores[hits, query],
            "mean_cx": boxes[:, 0], "mean_cy": boxes[:, 1],
            "mean_w": boxes[:, 2], "mean_h": boxes[:, 3],
            "mean_move": moved,
        }  # fmt: skip
        return {
            "query": query,
            "detections": int(hits.sum()),
            "mean_score": float(self.scores[:, query].mean()),
            "max_score": float(self.scores[:, query].max()),
            **{name: float(values.mean()) if some else None for name, values in numbers.items()},
            "spread_cx": float(boxes[:, 0].std()) if some else None,
            "spread_cy": float(boxes[:, 1].std()) if some else None,
            "top_class": self.class_map.names[int(counts.argmax())] if some else None,
            "top_class_share": float(counts.max() / counts.sum()) if some else None,
            **{
                f"stride_{stride:g}": float((self.levels[:, query] == level).mean())
                for level, stride in enumerate(self.strides)
            },
        }

    def figure(self, width: str | float = "page") -> Figure:
        """Where queries start, what sizes they find, how usage falls with the rank."""
        from detrkit.explain.figures.queries import query_figure

        return query_figure(self, width)

    def slots_figure(self, width: str | float = "page", count: int = 20) -> Figure:
        """The boxes of single queries, as in figure 7 of DETR."""
        from detrkit.explain.figures.queries import slots_figure

        return slots_figure(self, width, count)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        proposals, answers = (
            self.coverage(first) for first in (self.first_proposal, self.first_answer)
        )
        return {
            "images": self.images,
            "broken": list(self.broken),
            "boxes": len(self.first_answer),
            "conf": self.conf,
            "learned_content": self.learned,
            "detections": int(self.usage.sum()),
            "queries_with_detections": int((self.usage > 0).sum()),
            "gini": self.inequality,
            "queries_for_90_percent": self.needed(0.9),
            "queries_for_99_percent": self.needed(0.99),
            "proposal_coverage": float(proposals[-1]),
            "answer_coverage": float(answers[-1]),
            "strides": list(self.strides),
            "classes": {
                name: count
                for name, count in zip(
                    self.class_map.names, self.class_counts.sum(0).tolist(), strict=True
                )
                if count
            },
            "queries": self.rows(),
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """By the names of the attributes, for an `.npz` file."""
        return {
            **{name: getattr(self, name) for name in (*_PER_IMAGE, *_PER_BOX)},
            "class_counts": self.class_counts,
            "paths": np.array(self.paths),
            "class_names": np.array(self.class_map.names),
        }


def gini(counts: npt.NDArray[Any]) -> float:
    """Gini coefficient of numbers that are not negative: 0 equal, (n - 1) / n all in one.

    G = sum_i (2i - n - 1) x_i / (n · sum x), x ascending, i from 1. NaN where all are zero.
    """
    values = np.sort(np.asarray(counts, np.float64))
    total = values.sum()
    if not total:
        return float("nan")
    n = len(values)
    return float(((2 * np.arange(1, n + 1) - n - 1) * values).sum() / (n * total))


def queries(
    detector: Predictor | Runtime,
    index: DatasetIndex,
    *,
    conf: float = DEFAULT_SCORE,
    limit: int | None = None,
    batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> QueryStatistics:
    """Runs a detector over a data set and notes the answers of all queries.

    Args:
        detector: a checkpoint's.
        index: the data set; its classes are the detector's.
        conf: score from which on an answer counts as a detection.
        limit: at most so many images, evenly spread.
        batch: images per forward pass.
        progress: called after each batch.

    Raises:
        UsageError: the detector cannot be looked into.
        DataError: no image can be read.
    """
    runtime = torch_runtime(detector)
    postprocessor, spec = ranking_of(runtime), runtime.image_spec
    index = index.spread(limit)
    rows: list[_Rows] = []
    paths: list[str] = []
    broken: list[str] = []
    for part in decoded_batches(runtime, index, batch, broken, progress):
        scores = postprocessor.scores(part.decoded.logits)
        rows.append(_Rows.of(part.decoded, scores, part.shown, spec.extent))
        paths += [index.paths[image.number] for image in part.shown]
    if not rows:
        raise DataError(f"{index.source}: none of its {len(index)} images can be read")
    whole = {
        name: np.concatenate([getattr(row, name) for row in rows])
        for name in (*_PER_IMAGE, *_PER_BOX)
    }
    return QueryStatistics(
        **whole,
        strides=part.decoded.strides(spec.size[0]),
        learned=decoder_of(network(runtime)).settings.learn_query_content,
        conf=conf,
        class_map=runtime.class_map,
        paths=tuple(paths),
        broken=tuple(broken),
    )


@dataclass(frozen=True)
class _Rows:
    """The part of `QueryStatistics` that one batch gives."""

    boxes: Floats
    start: Floats
    scores: Floats
    labels: Ints
    levels: Ints
    first_proposal: Ints
    first_answer: Ints

    @classmethod
    def of(
        cls,
        decoded: Decoded,
        scores: Tensor,
        shown: Sequence[Shown],
        extent: Callable[[tuple[int, int]], tuple[float, float]],
    ) -> _Rows:
        best = scores.max(-1)
        # fractions of the padded input -> of the picture
        scale = torch.tensor(
            [[ew / w, eh / h] * 2 for (h, w), (eh, ew) in ((s.size, extent(s.size)) for s in shown)]
        )[:, None]
        boxes, start, labels = decoded.boxes.cpu(), decoded.start.cpu(), best.indices.cpu()
        targets = [image.target for image in shown]
        return cls(
            boxes=(boxes * scale).numpy(),
            start=(start * scale).numpy(),
            scores=best.values.float().cpu().numpy(),
            labels=labels.numpy(),
            levels=decoded.levels.cpu().numpy(),
            first_proposal=np.concatenate(
                [_first(s, t.boxes_cxcywh) for s, t in zip(start, targets, strict=True)]
            ),
            first_answer=np.concatenate(
                [
                    _first(b, t.boxes_cxcywh, own[:, None] == t.labels)
                    for b, own, t in zip(boxes, labels, targets, strict=True)
                ]
            ),
        )


def _first(boxes: Tensor, true: Tensor, allowed: Tensor | None = None) -> Ints:
    """(T,) number of the first box (Q, 4) that covers each true one (T, 4); Q where none does."""
    covered = box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(true))[0] >= COVERED  # (Q, T)
    if allowed is not None:
        covered = covered & allowed
    none = torch.full((1, len(true)), True)
    return torch.cat([covered, none]).int().argmax(0).numpy().astype(np.int64)
