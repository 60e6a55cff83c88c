"""Where a detector sees objects in images in which there is nothing to find.

The numbers are those of `detrkit.metrics.over_activation`; added is where in the picture false
detections lie, and which queries and levels of the encoder's maps they come from.

Shape legend: N images that could be read, M false detections, G cells of the maps in each
direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from detrkit.data.index import DatasetIndex
from detrkit.engine.predictor import Predictor
from detrkit.engine.runtime import Runtime
from detrkit.explain.drawn import Drawn
from detrkit.explain.images import decoded_batches
from detrkit.explain.layers import torch_runtime
from detrkit.explain.ranking import ranking_of
from detrkit.metrics import FalseDetections, Negatives
from detrkit.metrics.over_activation import THRESHOLDS
from detrkit.ops.boxes import xyxy_to_cxcywh
from detrkit.structures import Detections

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: Cells of the maps in each direction.
CELLS = 64


@dataclass(frozen=True)
class OverActivationMaps(Drawn):
    """False detections and their places. Boxes are cxcywh, in fractions of the picture.

    Attributes:
        negatives: the images and what was found in them.
        conf: score from which on a detection is mapped.
        boxes: (M, 4).
        scores: (M,) 0–1.
        labels: (M,) class indices.
        images: (M,) which of the N images each is in.
        queries: (M,) number of the query that made it.
        levels: (M,) level of the encoder's maps that the query comes from, 0 the finest.
        strides: pixels of the input per position, level by level.
    """

    negatives: Negatives
    conf: float
    boxes: Floats
    scores: Floats
    labels: Ints
    images: Ints
    queries: Ints
    levels: Ints
    strides: tuple[float, ...]

    @property
    def activation(self) -> Floats:
        """(G, G) the highest score of a false detection over a cell, on average over all images.

        A cell counts as covered where a box covers its centre.
        """
        images = max(len(self.negatives.found.paths), 1)
        return self._over_cells(np.add) / np.float32(images)

    @property
    def highest(self) -> Floats:
        """(G, G) the highest score of a false detection over a cell, of all images."""
        return self._over_cells(np.maximum)

    def _over_cells(self, join: np.ufunc) -> Floats:
        centres = (np.arange(CELLS) + 0.5) / CELLS
        whole = np.zeros((CELLS, CELLS), np.float32)
        for image in np.unique(self.images):
            own = self.images == image
            low = self.boxes[own, :2] - self.boxes[own, 2:] / 2
            high = self.boxes[own, :2] + self.boxes[own, 2:] / 2
            inside = (centres >= low[..., None]) & (centres <= high[..., None])  # (m, 2, G)
            covered = inside[:, 1, :, None] & inside[:, 0, None, :]  # (m, y, x)
            join(whole, (covered * self.scores[own, None, None]).max(0), out=whole)
        return whole

    def figure(self, width: str | float = "page") -> Figure:
        """The maps, classes, and the worst images."""
        from detrkit.explain.figures.over_activation import over_activation_figure

        return over_activation_figure(self, width)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: those of `detrkit eval --negatives`, and the sources."""
        return {
            **self.negatives.to_dict(),
            "conf": self.conf,
            "detections": len(self.scores),
            "queries": np.bincount(self.queries).tolist(),
            "levels": {
                f"{stride:g}": int((self.levels == level).sum())
                for level, stride in enumerate(self.strides)
            },
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per false detection, as it was found."""
        names = self.negatives.index.class_map.names
        paths = self.negatives.found.paths
        keys = ("cx", "cy", "w", "h")
        return [
            {
                "image": paths[image],
                "class": names[label],
                "score": score,
                **dict(zip(keys, box, strict=True)),
                "query": query,
                "stride": self.strides[level],
            }
            for image, label, score, box, query, level in zip(
                self.images.tolist(), self.labels.tolist(), self.scores.tolist(),
                self.boxes.tolist(), self.queries.tolist(), self.levels.tolist(), strict=True,
            )
        ]  # fmt: skip

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """By the names of the attributes, for an `.npz` file."""
        names = (
            *("boxes", "scores", "labels", "images", "queries", "levels"),
            *("activation", "highest"),
        )
        return {
            **{name: getattr(self, name) for name in names},
            "paths": np.array(self.negatives.found.paths),
            "class_names": np.array(self.negatives.index.class_map.names),
        }


def over_activation(
    detector: Predictor | Runtime,
    index: DatasetIndex,
    *,
    conf: float = THRESHOLDS[0],
    limit: int | None = None,
    batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> OverActivationMaps:
    """Runs a detector over images without targets and notes where it sees something.

    Args:
        detector: a checkpoint's.
        index: the images (`detrkit.data.negatives.open_negatives`).
        conf: score from which on a detection is mapped.
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
    found, broken = FalseDetections(), list[str]()
    rows: list[dict[str, npt.NDArray[Any]]] = []
    strides: tuple[float, ...] = ()
    for part in decoded_batches(runtime, index, batch, broken, progress):
        detected: list[Detections] = postprocessor.postprocess(
            part.outputs, [image.size for image in part.shown], spec, runtime.class_map
        )
        _, queries, _ = postprocessor.rank(part.decoded.logits)
        levels = part.decoded.levels.gather(1, queries)
        strides = part.decoded.strides(spec.size[0])
        for image, answer, query, level in zip(
            part.shown, detected, queries.cpu().numpy(), levels.cpu().numpy(), strict=True
        ):
            keep = answer.scores >= conf
            rows.append(
                {
                    "boxes": _fractions(answer.boxes_xyxy[keep], image.size),
                    "scores": answer.scores[keep],
                    "labels": answer.labels[keep],
                    "images": np.full(int(keep.sum()), len(found.paths)),
                    "queries": query[keep],
                    "levels": level[keep],
                }
            )
            found.add(index.paths[image.number], answer)
    found.broken.update(dict.fromkeys(broken, "cannot be read"))
    found.at(conf)  # says so where none can be read
    return OverActivationMaps(
        negatives=Negatives(index, found),
        conf=conf,
        strides=strides,
        **{name: np.concatenate([row[name] for row in rows]) for name in rows[0]},
    )


def _fractions(boxes_xyxy: Floats, size: tuple[int, int]) -> Floats:
    """Corners in pixels (M, 4) -> cxcywh in fractions of a picture of `size` (h, w)."""
    height, width = size
    boxes = torch.from_numpy(boxes_xyxy / np.array([width, height] * 2, np.float32))
    fractions: Floats = xyxy_to_cxcywh(boxes).numpy()
    return fractions
