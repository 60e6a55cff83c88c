"""What a data set holds, in numbers: classes, boxes, images, and what occurs together.

Crowd regions are counted apart: they neither train nor count as missed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.analysis.numbers import Histogram, Spread, distinct, grouped_median, heat_map
from detrkit.analysis.setup import TrainingSetup
from detrkit.data.index import DatasetIndex

#: COCO's limits of small and medium, in square pixels of the file.
SMALL, MEDIUM = 32.0**2, 96.0**2

_INF = float("inf")
#: Box sizes, the root of w x h in pixels; strides and COCO's limits are among the edges.
SIZE_EDGES = (
    *(0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024),
    _INF,
)
#: Width over height: half octaves from 1:16 to 16:1.
ASPECT_EDGES = (0.0, *(2.0 ** (i / 2) for i in range(-8, 9)), _INF)
#: Objects in an image.
COUNT_EDGES = (
    *(0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000),
    _INF,
)
#: Root of (box area / image area).
COVERAGE_EDGES = (0.0, 0.02, 0.05, *(i / 10 for i in range(1, 10)), _INF)
#: Sides at the input for the map of width against height: half octaves from 1 to 2048 pixels.
SIDE_EDGES = tuple(2.0 ** (i / 2) for i in range(23))
#: Cells per side in the map of positions.
POSITION_CELLS = 32
#: Image sizes that are listed; the others are summed up.
LISTED_SIZES = 20
#: Inputs that are compared, as the root of height x width.
CANDIDATE_SIDES = (320, 416, 512, 640, 800, 960, 1280)


@dataclass(frozen=True)
class ClassStatistics:
    """One class in one part of the data.

    Attributes:
        name, category_id: as the data set calls it.
        boxes: crowd regions not counted.
        images: that hold at least one of its boxes.
        crowds: crowd regions.
        share: of all boxes.
        small, medium, large: boxes in COCO's ranges of area.
        median_side: root of w x h in pixels of the file.
        median_input_side: the same at the model's input.
        median_aspect: w / h.
    """

    name: str
    category_id: int | str
    boxes: int
    images: int
    crowds: int
    share: float
    small: int
    medium: int
    large: int
    median_side: float
    median_input_side: float
    median_aspect: float


@dataclass(frozen=True)
class SizesAt:
    """How large the objects are at one input size.

    Attributes:
        size: (h, w).
        under_8, under_16: boxes whose root of w x h is smaller than that many pixels.
        boxes: all of them.
        median: pixels.
    """

    size: tuple[int, int]
    under_8: int
    under_16: int
    boxes: int
    median: float

    def share_under(self, side: int) -> float:
        """Share of the boxes under 8 or 16 pixels; 0 without boxes."""
        return getattr(self, f"under_{side}") / max(self.boxes, 1)


@dataclass(frozen=True)
class SplitStatistics:
    """One part of the data, or all of it.

    Attributes:
        name: of the split; "all" for all of them.
        images, boxes, crowds: how many.
        empty_images: without any box that trains.
        crowd_only_images: those among them that hold crowd regions.
        classes: in index order.
        small, medium, large: boxes in COCO's ranges of area.
        sides: root of w x h in pixels of the files.
        side_histogram: the same over `SIZE_EDGES`.
        input_sides, input_side_histogram: the same at the model's input.
        at_inputs: sizes at other inputs of the same aspect ratio, the model's own included.
        aspects, aspect_histogram: w / h of the boxes.
        objects, objects_histogram: boxes per image, empty ones included.
        images_over_queries: with more boxes than the model can find.
        images_over_100: with more boxes than COCO's evaluation looks at.
        border_share: boxes that touch the border of their image.
        coverage, coverage_histogram: root of (box area / image area).
        positions: (32, 32) where the centres of boxes are; rows go down.
        input_shapes: boxes by height (rows) and width (columns) at the input, over `SIDE_EDGES`.
        image_sizes: the most frequent (h, w) and their images.
        distinct_sizes: how many sizes there are.
        image_heights, image_widths, image_aspects: of the files; aspects are w / h.
        distorted_images: stretched more than twice as far in one direction as in the other.
        cooccurrence: (C, C) images that hold both classes; the diagonal those that hold one.
    """

    name: str
    images: int
    boxes: int
    crowds: int
    empty_images: int
    crowd_only_images: int
    classes: tuple[ClassStatistics, ...]
    small: int
    medium: int
    large: int
    sides: Spread
    side_histogram: Histogram
    input_sides: Spread
    input_side_histogram: Histogram
    at_inputs: tuple[SizesAt, ...]
    aspects: Spread
    aspect_histogram: Histogram
    objects: Spread
    objects_histogram: Histogram
    images_over_queries: int
    images_over_100: int
    border_share: float
    coverage: Spread
    coverage_histogram: Histogram
    positions: npt.NDArray[np.int64]
    input_shapes: npt.NDArray[np.int64]
    image_sizes: tuple[tuple[tuple[int, int], int], ...]
    distinct_sizes: int
    image_heights: Spread
    image_widths: Spread
    image_aspects: Spread
    distorted_images: int
    cooccurrence: npt.NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """Plain values and arrays, for JSON; of the symmetric co-occurrence the upper part."""
        values = asdict(self)
        first, second = np.nonzero(np.triu(self.cooccurrence, 1))
        values["cooccurrence"] = [
            {"classes": [int(i), int(j)], "images": int(self.cooccurrence[i, j])}
            for i, j in zip(first, second, strict=True)
        ]
        values["image_sizes"] = [
            {"size": list(size), "images": images} for size, images in self.image_sizes
        ]
        return values


def owners_of(index: DatasetIndex) -> npt.NDArray[np.int64]:
    """(M,) number of the image that each box belongs to."""
    return np.repeat(np.arange(len(index)), np.diff(index.offsets))


def describe(
    index: DatasetIndex, setup: TrainingSetup = TrainingSetup(), name: str = "all"
) -> SplitStatistics:
    """Statistics of a data set or a part of it; any number of images and boxes, none included."""
    number = len(index.class_map)
    normal = ~index.iscrowd
    owners = owners_of(index)
    per_image = np.bincount(owners[normal], minlength=len(index))
    crowds_per_image = np.bincount(owners[~normal], minlength=len(index))

    owner, label = owners[normal], index.labels[normal]
    boxes = index.boxes_xyxy[normal].astype(np.float64)
    wh = boxes[:, 2:] - boxes[:, :2]
    image_wh = index.sizes[:, ::-1].astype(np.float64)
    own_wh = image_wh[owner]
    area = index.area[normal]
    side = np.sqrt(wh.prod(1))
    scales = setup.scales(index.sizes)
    input_wh = wh * scales[owner]
    input_side = np.sqrt(input_wh.prod(1))
    aspect = wh[:, 0] / np.maximum(wh[:, 1], 1e-6)
    coverage = side / np.sqrt(np.maximum(own_wh.prod(1), 1))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / np.maximum(own_wh, 1)
    touches = (boxes[:, :2] <= 0.5).any(1) | (boxes[:, 2:] >= own_wh - 0.5).any(1)

    cells = [i / POSITION_CELLS for i in range(POSITION_CELLS + 1)]
    together = _cooccurrence(owner, label, len(index), number)
    heights_widths = index.sizes.astype(np.int64)
    sizes, images_of_size = distinct(heights_widths[:, 0] << 32 | heights_widths[:, 1])
    common = np.argsort(-images_of_size, kind="stable")[:LISTED_SIZES].tolist()
    return SplitStatistics(
        name=name,
        images=len(index),
        boxes=len(label),
        crowds=index.num_boxes - len(label),
        empty_images=int((per_image == 0).sum()),
        crowd_only_images=int(((per_image == 0) & (crowds_per_image > 0)).sum()),
        classes=_classes(index, label, area, side, input_side, aspect, together.diagonal()),
        small=int((area < SMALL).sum()),
        medium=int(((area >= SMALL) & (area < MEDIUM)).sum()),
        large=int((area >= MEDIUM).sum()),
        sides=Spread.of(side),
        side_histogram=Histogram.of(side, SIZE_EDGES),
        input_sides=Spread.of(input_side),
        input_side_histogram=Histogram.of(input_side, SIZE_EDGES),
        at_inputs=_sizes_at_inputs(wh, index.sizes, owner, setup),
        aspects=Spread.of(aspect),
        aspect_histogram=Histogram.of(aspect, ASPECT_EDGES),
        objects=Spread.of(per_image),
        objects_histogram=Histogram.of(per_image, COUNT_EDGES),
        images_over_queries=int((per_image > setup.most_found).sum()),
        images_over_100=int((per_image > 100).sum()),
        border_share=float(touches.mean()) if len(label) else 0.0,
        coverage=Spread.of(coverage),
        coverage_histogram=Histogram.of(coverage, COVERAGE_EDGES),
        positions=heat_map(centres[:, 0], centres[:, 1], cells, cells),
        input_shapes=heat_map(input_wh[:, 0], input_wh[:, 1], SIDE_EDGES, SIDE_EDGES),
        image_sizes=tuple(
            ((int(sizes[i]) >> 32, int(sizes[i]) & 0xFFFFFFFF), int(images_of_size[i]))
            for i in common
        ),
        distinct_sizes=len(sizes),
        image_heights=Spread.of(image_wh[:, 1]),
        image_widths=Spread.of(image_wh[:, 0]),
        image_aspects=Spread.of(image_wh[:, 0] / np.maximum(image_wh[:, 1], 1)),
        distorted_images=int((scales.max(1, initial=0) > 2 * scales.min(1, initial=_INF)).sum()),
        cooccurrence=together,
    )


def _classes(
    index: DatasetIndex,
    label: npt.NDArray[np.int64],
    area: npt.NDArray[np.float64],
    side: npt.NDArray[np.float64],
    input_side: npt.NDArray[np.float64],
    aspect: npt.NDArray[np.float64],
    images: npt.NDArray[np.int64],
) -> tuple[ClassStatistics, ...]:
    number = len(index.class_map)
    boxes = np.bincount(label, minlength=number)
    crowds = np.bincount(index.labels[index.iscrowd], minlength=number)
    small = np.bincount(label[area < SMALL], minlength=number)
    large = np.bincount(label[area >= MEDIUM], minlength=number)
    sides = grouped_median(side, label, number)
    input_sides = grouped_median(input_side, label, number)
    aspects = grouped_median(aspect, label, number)
    total = max(len(label), 1)
    return tuple(
        ClassStatistics(
            name=index.class_map.names[i],
            category_id=index.class_map.category_ids[i],
            boxes=int(boxes[i]),
            images=int(images[i]),
            crowds=int(crowds[i]),
            share=float(boxes[i] / total),
            small=int(small[i]),
            medium=int(boxes[i] - small[i] - large[i]),
            large=int(large[i]),
            median_side=float(sides[i]),
            median_input_side=float(input_sides[i]),
            median_aspect=float(aspects[i]),
        )
        for i in range(number)
    )


def _cooccurrence(
    owner: npt.NDArray[np.int64], label: npt.NDArray[np.int64], images: int, classes: int
) -> npt.NDArray[np.int64]:
    """(C, C) images that hold both classes."""
    from scipy import sparse

    pairs, _ = distinct(owner * classes + label)  # each class once per image
    present = sparse.csr_matrix(
        (np.ones(len(pairs), np.int64), (pairs // max(classes, 1), pairs % max(classes, 1))),
        shape=(images, classes),
    )
    return np.asarray((present.T @ present).toarray(), np.int64)


def _sizes_at_inputs(
    wh: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.int32],
    owner: npt.NDArray[np.int64],
    setup: TrainingSetup,
) -> tuple[SizesAt, ...]:
    """The model's input and the candidates, smallest first."""
    root_area = np.sqrt(wh.prod(1))
    found = []
    for size in input_sizes(setup.size):
        # the area scales by the product of both factors
        factor = np.sqrt(setup.scales(sizes, size).prod(1))
        side = root_area * factor[owner]
        found.append(
            SizesAt(
                size=size,
                under_8=int((side < 8).sum()),
                under_16=int((side < 16).sum()),
                boxes=len(side),
                median=float(np.median(side)) if len(side) else float("nan"),
            )
        )
    return tuple(found)


def input_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """`size` and the candidates of its aspect ratio, in multiples of 32, by area."""
    root = (size[0] * size[1]) ** 0.5
    candidates = {size}
    for side in CANDIDATE_SIDES:
        h, w = (max(32, round(side * s / root / 32) * 32) for s in size)
        candidates.add((h, w))
    return sorted(candidates, key=lambda s: s[0] * s[1])
