"""Is an exported file the same detector? Its detections held against the checkpoint's.

Detections of one image are the same object where class and place agree (IoU of 0.5 and more, the
best first). Of these pairs the largest differences of scores and corners are told. A detection is
matched where its pair differs no more than the tolerance, and enough of them must be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from detrkit.engine.runtime import Runtime
from detrkit.export.metadata import Precision
from detrkit.structures import Detections

#: Detections that count: those from this score on.
SCORE = 0.1
#: Where an image has none, as untrained models do not: its best ones.
BEST = 20

#: Largest difference by precision: of scores, and of corners in longer sides of the image.
DIFFERENCES: dict[Precision, float] = {"fp32": 0.005, "fp16": 0.05, "bf16": 0.1, "int8": 0.2}
#: Share of the detections that must be within it. Queries of nearly equal score may change places.
SHARES: dict[Precision, float] = {"fp32": 0.99, "fp16": 0.95, "bf16": 0.9, "int8": 0.7}


@dataclass(frozen=True)
class Tolerance:
    """What still counts as the same.

    Attributes:
        difference: of scores, and of corners in longer sides of the image.
        share: of the detections, 0–1, that must be within it.
        ap: by how much AP may be lower.
    """

    difference: float
    share: float
    ap: float

    @classmethod
    def of(cls, precision: Precision, difference: float | None = None) -> Tolerance:
        """For a precision; `difference` in place of its own. AP may fall by a fifth of it."""
        allowed = DIFFERENCES[precision] if difference is None else difference
        return cls(allowed, SHARES[precision], allowed / 5)


@dataclass(frozen=True)
class Verification:
    """What came of it.

    Attributes:
        source: of the images, in words.
        images: how many.
        detections: of the checkpoint, that count.
        found: share of them that the file finds too, 0–1.
        matched: share of them that are within the tolerance.
        score_difference: the largest of the pairs.
        box_difference: the largest of a corner, in original pixels.
        tolerance: what was allowed.
        ap, ap_checkpoint: COCO's AP of the file and of the checkpoint; None without a data set.
    """

    source: str
    images: int
    detections: int
    found: float
    matched: float
    score_difference: float
    box_difference: float
    tolerance: Tolerance
    ap: float | None = None
    ap_checkpoint: float | None = None

    @property
    def passed(self) -> bool:
        """Whether it is the same detector."""
        if self.matched < self.tolerance.share:
            return False
        if self.ap is None or self.ap_checkpoint is None:
            return True
        return self.ap >= self.ap_checkpoint - self.tolerance.ap

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "passed": self.passed}

    def describe(self) -> str:
        """In one line."""
        text = (
            f"{self.matched:.1%} of {self.detections} detections on {self.images} images "
            f"({self.source}) within {self.tolerance.difference:g}; largest difference: score "
            f"{self.score_difference:.2g}, box {self.box_difference:.2g} px"
        )
        if self.ap is None or self.ap_checkpoint is None:
            return text
        return f"{text}; AP {self.ap:.4f}, checkpoint {self.ap_checkpoint:.4f}"


def compare(
    wanted: Sequence[Detections], given: Sequence[Detections], tolerance: Tolerance, source: str
) -> Verification:
    """Holds detections of a file against those of its checkpoint, image by image."""
    count = found = matched = 0
    scores = corners = 0.0
    for a, b in zip(wanted, given, strict=True):
        kept = a.above(SCORE)
        kept = kept if len(kept) else a.select(np.arange(min(BEST, len(a))))
        count += len(kept)
        side = max(*kept.orig_size, 1)
        for i, j in _pairs(kept, b):
            score = float(abs(kept.scores[i] - b.scores[j]))
            corner = float(np.abs(_clipped(kept)[i] - _clipped(b)[j]).max())
            scores, corners = max(scores, score), max(corners, corner)
            found += 1
            matched += score <= tolerance.difference and corner <= tolerance.difference * side
    return Verification(
        source, len(wanted), count, found / max(count, 1), matched / max(count, 1), scores, corners,
        tolerance,
    )  # fmt: skip


def _pairs(a: Detections, b: Detections) -> Iterable[tuple[int, int]]:
    """Equal objects of two answers, by index; each in one pair at most."""
    if not len(a) or not len(b):
        return []
    iou = _iou(a.boxes_xyxy, b.boxes_xyxy)
    iou[a.labels[:, None] != b.labels[None]] = 0
    iou = np.nan_to_num(iou)
    # equal boxes of one query may answer twice: nearer scores go first
    rank = iou - 1e-3 * np.abs(a.scores[:, None] - np.nan_to_num(b.scores)[None])
    pairs = []
    order = np.argsort(-rank, axis=None, kind="stable")
    rows, columns = np.unravel_index(order[iou.ravel()[order] >= 0.5], iou.shape)
    seen_a: set[int] = set()
    seen_b: set[int] = set()
    for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
        if i not in seen_a and j not in seen_b:
            seen_a.add(i)
            seen_b.add(j)
            pairs.append((i, j))
    return pairs


def _iou(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(N, 4), (M, 4) -> (N, M); boxes without area equal those that are where they are."""
    first, second = a[:, None].astype(float), b[None].astype(float)
    low, high = (
        np.maximum(first[..., :2], second[..., :2]),
        np.minimum(first[..., 2:], second[..., 2:]),
    )
    overlap = (high - low).clip(min=0).prod(-1)
    area = [(x[..., 2:] - x[..., :2]).clip(min=0).prod(-1) for x in (first, second)]
    union = area[0] + area[1] - overlap
    same = np.abs(first - second).max(-1) < 0.5  # of a pixel
    return np.where(same, 1.0, overlap / np.maximum(union, 1e-9))


def _clipped(found: Detections) -> npt.NDArray[np.float32]:
    """Boxes inside the image: what is beyond its border is nobody's matter."""
    height, width = found.orig_size
    limit = np.array([width, height] * 2, np.float32)
    boxes: npt.NDArray[np.float32] = found.boxes_xyxy.clip(0, limit)
    return boxes


def detections_of(runtime: Runtime, images: Sequence[Tensor], batch: int = 4) -> list[Detections]:
    """What a runtime finds on all images."""
    found: list[Detections] = []
    for first in range(0, len(images), batch):
        found += runtime.predict(images[first : first + batch])
    return found
