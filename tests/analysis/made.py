"""Small data sets, written down or drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from detrkit.data.faults import FaultReport
from detrkit.data.index import DatasetIndex
from detrkit.data.strings import PackedStrings
from detrkit.structures import ClassMap


class Box(NamedTuple):
    """x1, y1, x2, y2 in pixels."""

    corners: tuple[float, float, float, float]
    label: int = 0
    crowd: bool = False
    area: float | None = None


class Image(NamedTuple):
    size: tuple[int, int]
    boxes: Sequence[Box] = ()


def index_of(
    images: Sequence[Image],
    names: Sequence[str] = ("cat", "dog", "cow"),
    *,
    source: str = "made.json",
    paths: Sequence[str] | None = None,
    faults: FaultReport | None = None,
) -> DatasetIndex:
    """An index; annotation ids count from 100."""
    boxes = [box for image in images for box in image.boxes]
    corners = np.array([box.corners for box in boxes], np.float32).reshape(-1, 4)
    own = ((corners[:, 2:] - corners[:, :2]).astype(np.float64)).prod(1)
    areas = [own[i] if box.area is None else box.area for i, box in enumerate(boxes)]
    return DatasetIndex(
        paths=PackedStrings.pack(paths or [f"{i}.jpg" for i in range(len(images))]),
        sizes=np.array([image.size for image in images], np.int32).reshape(-1, 2),
        image_ids=np.arange(len(images), dtype=np.int64),
        offsets=np.cumsum([0, *(len(image.boxes) for image in images)]).astype(np.int64),
        boxes_xyxy=corners,
        labels=np.array([box.label for box in boxes], np.int64),
        iscrowd=np.array([box.crowd for box in boxes], bool),
        area=np.array(areas, np.float64),
        annotation_ids=np.arange(len(boxes)) + 100,
        class_map=ClassMap.from_names(names, 1),
        apply_exif=np.ones(len(images), bool),
        faults=faults or FaultReport(),
        source=source,
    )


def many(count: int, boxes: Sequence[Box] = (), size: tuple[int, int] = (480, 640)) -> list[Image]:
    """The same image several times."""
    return [Image(size, boxes)] * count


@st.composite
def _images(draw: st.DrawFn) -> Image:
    h, w = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    boxes = []
    for _ in range(draw(st.integers(0, 7))):
        x1 = draw(st.integers(0, 2 * w - 1)) / 2
        y1 = draw(st.integers(0, 2 * h - 1)) / 2
        x2 = x1 + draw(st.integers(1, int(2 * (w - x1)))) / 2
        y2 = y1 + draw(st.integers(1, int(2 * (h - y1)))) / 2
        boxes.append(Box((x1, y1, x2, y2), draw(st.integers(0, 2)), draw(st.booleans())))
    return Image((h, w), boxes)


#: Lists of images with boxes on a grid of half pixels, crowd regions among them.
IMAGES = st.lists(_images(), min_size=0, max_size=6)
