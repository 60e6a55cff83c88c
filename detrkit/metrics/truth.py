"""The ground truth that detections are measured against, in columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from detrkit.structures import ClassMap


class GroundTruth(Protocol):
    """The columns of a data set that the evaluation reads; `DatasetIndex` has them.

    Attributes:
        image_ids: N ids, int or str.
        sizes: (N, 2) int, (h, w) in pixels.
        offsets: (N + 1,) int; the boxes of image i are rows offsets[i]:offsets[i + 1].
        boxes_xyxy: (M, 4) float, corners in pixels.
        labels: (M,) int, contiguous class indices.
        iscrowd: (M,) bool.
        area: (M,) float, square pixels.
        class_map: names of the classes.
    """

    @property
    def image_ids(self) -> Iterable[Any]: ...
    @property
    def sizes(self) -> npt.NDArray[Any]: ...
    @property
    def offsets(self) -> npt.NDArray[Any]: ...
    @property
    def boxes_xyxy(self) -> npt.NDArray[Any]: ...
    @property
    def labels(self) -> npt.NDArray[Any]: ...
    @property
    def iscrowd(self) -> npt.NDArray[Any]: ...
    @property
    def area(self) -> npt.NDArray[Any]: ...
    @property
    def class_map(self) -> ClassMap: ...


@dataclass(frozen=True)
class Truth:
    """N images in the order of their ids, with M boxes in K classes.

    The order matters: detections of equal score are counted in the order of the ids, as
    pycocotools does.

    Attributes:
        image_ids: N ids, sorted, numbers before text. Image n of every other column is
            `image_ids[n]`.
        positions: (N,) int64, where the data set has each image.
        sizes: (N, 2) int64, (h, w) in pixels.
        images: (M,) int32, the image of each box; ascending.
        labels: (M,) int32, contiguous class indices.
        boxes_xywh: (M, 4) float64, pixels.
        iscrowd: (M,) bool.
        area: (M,) float64, square pixels, of the segment where the annotation gives one.
        class_map: names and category ids.
    """

    image_ids: tuple[int | str, ...]
    positions: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    images: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    boxes_xywh: npt.NDArray[np.float64]
    iscrowd: npt.NDArray[np.bool_]
    area: npt.NDArray[np.float64]
    class_map: ClassMap

    @classmethod
    def of(cls, index: GroundTruth) -> Truth:
        """The columns of a data set, sorted."""
        ids = [plain(id_) for id_ in index.image_ids]
        order = np.array(
            sorted(range(len(ids)), key=lambda i: (isinstance(ids[i], str), ids[i])), np.int64
        )
        offsets = np.asarray(index.offsets, np.int64)
        counts = np.diff(offsets)[order]
        starts = np.cumsum(counts) - counts
        rows = np.arange(counts.sum()) + np.repeat(offsets[:-1][order] - starts, counts)
        boxes = np.asarray(index.boxes_xyxy, np.float64).reshape(-1, 4)[rows]
        boxes[:, 2:] -= boxes[:, :2]
        return cls(
            image_ids=tuple(ids[i] for i in order.tolist()),
            positions=order,
            sizes=np.asarray(index.sizes, np.int64).reshape(-1, 2)[order],
            images=np.repeat(np.arange(len(ids), dtype=np.int32), counts),
            labels=np.asarray(index.labels)[rows].astype(np.int32),
            # Corners in float32 lose the last digits of the annotated width and height, and a
            # box can lie exactly on an IoU threshold: a thousandth of a pixel restores what was
            # written.
            boxes_xywh=boxes.round(3),
            iscrowd=np.asarray(index.iscrowd, bool)[rows],
            area=np.asarray(index.area, np.float64)[rows],
            class_map=index.class_map,
        )

    def __len__(self) -> int:
        """How many images."""
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_map)

    @cached_property
    def image_of_id(self) -> dict[int | str, int]:
        """Image id -> number of the image."""
        return {image_id: number for number, image_id in enumerate(self.image_ids)}

    @cached_property
    def boxes_per_class(self) -> npt.NDArray[np.int64]:
        """(K,) boxes to find, crowd regions left out."""
        return np.bincount(self.labels[~self.iscrowd], minlength=self.num_classes)

    @cached_property
    def boxes_per_image(self) -> npt.NDArray[np.int64]:
        """(N,) boxes to find, crowd regions left out."""
        return np.bincount(self.images[~self.iscrowd], minlength=len(self))

    @cached_property
    def images_per_class(self) -> npt.NDArray[np.int64]:
        """(K,) images with at least one box to find."""
        kept = ~self.iscrowd
        pairs = np.unique(self.labels[kept].astype(np.int64) * len(self) + self.images[kept])
        return np.bincount(pairs // max(len(self), 1), minlength=self.num_classes)


def plain(value: Any) -> Any:
    """NumPy scalars as Python's, so that ids compare and serialise."""
    return value.item() if isinstance(value, np.generic) else value
