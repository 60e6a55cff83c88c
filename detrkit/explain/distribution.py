"""How D-FINE and DEIMv2 refine a box: the distributions of its four edges, layer by layer.

Fine-grained distribution refinement: Peng et al., ICLR 2025, arXiv:2410.13842, section 4.1. A
query first predicts a box; every decoder layer then has a distribution over R + 1 shifts W(n) for
each edge, and the edge moves by its expectation:

    d_l = d_0 + {H, H, W, W} · sum_n W(n) · Pr_l(n)                        eq. 2

Shape legend: L decoder layers, R = reg_max bins. Edges are left, top, right, bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detrkit.engine.predictor import DEFAULT_SCORE, Predictor
from detrkit.engine.runtime import Runtime
from detrkit.engine.sources import Source
from detrkit.explain.decoder_trace import Decoded, DecoderTrace, refining_decoder_of
from detrkit.explain.drawn import Drawn
from detrkit.explain.layers import network
from detrkit.explain.opened import Opened, open_picture
from detrkit.explain.reply import ask
from detrkit.ops.boxes import box_iou
from detrkit.structures.detections import Detection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Edges of a box in the order of all arrays.
EDGES = ("left", "top", "right", "bottom")

#: Detections among which some are chosen by number: as many as `heatmap` and `attention` have.
_MOST = 300

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EdgeDistributions(Drawn):
    """One detection and how it came about.

    Attributes:
        label: class index.
        name: of the class.
        score: 0–1.
        query: number of the query that made it.
        start_xyxy: (4,) where the query started, in pixels of the picture, as all boxes here.
        first_xyxy: (4,) the first layer's box before refinement, which the shifts start from.
        boxes_xyxy: (L, 4) after each layer; the last one is the detection's.
        probabilities: (L, 4, R + 1) Pr_l(n); each row sums to 1.
        weights: (R + 1,) W(n) in units of the first box's size / reg_scale.
        unit: (4,) pixels of that unit, edge by edge.
        picture: (H, W, 3) uint8, what was detected on.
        path: of the picture, where it is a file.
    """

    label: int
    name: str
    score: float
    query: int
    start_xyxy: Floats
    first_xyxy: Floats
    boxes_xyxy: Floats
    probabilities: Floats
    weights: Floats
    unit: Floats
    picture: npt.NDArray[np.uint8]
    path: str | None = None

    @property
    def layers(self) -> int:
        """L."""
        return len(self.boxes_xyxy)

    @property
    def weighted(self) -> Floats:
        """(L, 4, R + 1) W(n) · Pr_l(n) in pixels: what each bin adds to the edge's shift."""
        return self.probabilities * self.weights * self.unit[:, None]

    @property
    def shifts(self) -> Floats:
        """(L, 4) pixels by which the edges moved from `first_xyxy`, outwards positive."""
        return self.weighted.sum(-1)

    @property
    def entropy(self) -> Floats:
        """(L, 4) entropy of each distribution by that of a uniform one: 0 is certain, 1 nothing."""
        logs = np.log(np.maximum(self.probabilities, np.finfo(np.float32).tiny))
        total = -(self.probabilities * logs).sum(-1)
        return (total / np.log(self.probabilities.shape[-1])).astype(np.float32)

    @property
    def iou_with_last(self) -> Floats:
        """(L + 1,) overlap of the first box and of each layer's with the last layer's."""
        boxes = np.concatenate([self.first_xyxy[None], self.boxes_xyxy])
        return _iou(boxes, boxes[-1:])[:, 0]

    def figure(self, width: str | float = "page") -> Figure:
        """The picture with the boxes, and the distributions of all layers."""
        from detrkit.explain.figures.distribution import distribution_figure

        return distribution_figure(self, width)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the distributions themselves are in `arrays`."""
        return {
            "path": self.path,
            "class": self.name,
            "score": self.score,
            "query": self.query,
            "box": self.boxes_xyxy[-1].tolist(),
            "start_box": self.start_xyxy.tolist(),
            "first_box": self.first_xyxy.tolist(),
            "layers": [
                {
                    "layer": layer + 1,
                    "box": self.boxes_xyxy[layer].tolist(),
                    "shift": dict(zip(EDGES, self.shifts[layer].tolist(), strict=True)),
                    "entropy": dict(zip(EDGES, self.entropy[layer].tolist(), strict=True)),
                    "iou_with_last": float(self.iou_with_last[layer + 1]),
                }
                for layer in range(self.layers)
            ],
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per layer and edge."""
        return [
            {
                "image": self.path,
                "class": self.name,
                "score": self.score,
                "query": self.query,
                "layer": layer + 1,
                "edge": edge,
                "shift_pixels": float(self.shifts[layer, number]),
                "entropy": float(self.entropy[layer, number]),
                "iou_with_last": float(self.iou_with_last[layer + 1]),
            }
            for layer in range(self.layers)
            for number, edge in enumerate(EDGES)
        ]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """By the names of the attributes, for an `.npz` file."""
        names = (
            *("start_xyxy", "first_xyxy", "boxes_xyxy", "probabilities", "weights", "unit"),
            *("weighted", "shifts", "entropy"),
        )
        return {name: getattr(self, name) for name in names}


def distribution(
    detector: Predictor | Runtime,
    source: Source | Opened,
    *,
    conf: float = DEFAULT_SCORE,
    classes: Sequence[str | int] | None = None,
    max_det: int = 1,
    detections: Sequence[int] | None = None,
) -> list[EdgeDistributions]:
    """How the best detections of one picture were refined.

    Args:
        detector: of a checkpoint whose decoder refines distributions.
        source: one picture.
        conf: lowest score.
        classes: names or indices to keep; None: all.
        max_det: at most so many.
        detections: these instead, 0 the best.

    Returns:
        Best first, or in the order of `detections`; none where nothing scores enough.

    Raises:
        NoSuchDetection: fewer were found than one of `detections` says.
        UsageError: the decoder predicts boxes directly, or the detector is no checkpoint.
        DataError: the picture cannot be read.
    """
    model = network(detector)
    refining_decoder_of(model)
    opened = source if isinstance(source, Opened) else open_picture(detector, source)
    with DecoderTrace(model) as trace:
        most = max_det if detections is None else _MOST
        reply, _ = ask(detector, opened, conf=conf, classes=classes, max_det=most)
    reply = reply.only(detections)
    return [
        _of_query(trace.last, query, found, opened)
        for query, found in zip(reply.queries.tolist(), reply.found, strict=True)
    ]


def _of_query(decoded: Decoded, query: int, found: Detection, opened: Opened) -> EdgeDistributions:
    refined = decoded.refined
    assert refined is not None
    first = refined.first[0, query]

    def pixels(boxes_cxcywh: Tensor) -> Floats:
        return opened.spec.restore_boxes(boxes_cxcywh.cpu(), opened.size).numpy()

    return EdgeDistributions(
        label=found.label,
        name=found.name,
        score=found.score,
        query=query,
        start_xyxy=pixels(decoded.start[0, query]),
        first_xyxy=pixels(first),
        boxes_xyxy=pixels(refined.boxes[:, 0, query]),
        probabilities=refined.corners[:, 0, query].softmax(-1).cpu().numpy(),
        weights=refined.weights.cpu().numpy(),
        unit=np.tile(opened.points_back(first[2:]) / refined.reg_scale, 2),
        picture=opened.picture,
        path=opened.path,
    )


def _iou(a: Floats, b: Floats) -> Floats:
    found: Floats = box_iou(torch.from_numpy(a), torch.from_numpy(b))[0].numpy()
    return found
