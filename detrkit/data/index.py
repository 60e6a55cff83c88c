"""A data set as columns: where the images are, how large, and their boxes.

Reading annotations once into a few NumPy arrays makes a million boxes cost tens of megabytes and
nothing to share with loader workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from detrkit.data.faults import FaultReport
from detrkit.data.strings import PackedStrings
from detrkit.errors import UsageError
from detrkit.structures import ClassMap


@dataclass(frozen=True)
class DatasetIndex:
    """N images with M boxes; the boxes of image i are `offsets[i]:offsets[i + 1]`.

    Attributes:
        paths: N image files.
        sizes: (N, 2) int32, (h, w) in pixels as the image is read.
        image_ids: (N,) int64, or strings: the data set's own.
        offsets: (N + 1,) int64.
        boxes_xyxy: (M, 4) float32, corners in pixels. At most one pixel outside the image.
        labels: (M,) int64, contiguous indices of `class_map`.
        iscrowd: (M,) bool, regions that neither train nor count as missed.
        area: (M,) float64, square pixels; of the segment where the annotation gives one.
        annotation_ids: (M,) int64, unique.
        class_map: names and category ids.
        apply_exif: (N,) bool, whether the image is turned as its EXIF orientation says.
        faults: what was wrong and what was done about it.
        source: file or folder it was read from, for messages.
    """

    paths: PackedStrings
    sizes: npt.NDArray[np.int32]
    image_ids: npt.NDArray[np.int64] | PackedStrings
    offsets: npt.NDArray[np.int64]
    boxes_xyxy: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    iscrowd: npt.NDArray[np.bool_]
    area: npt.NDArray[np.float64]
    annotation_ids: npt.NDArray[np.int64]
    class_map: ClassMap
    apply_exif: npt.NDArray[np.bool_]
    faults: FaultReport = field(default_factory=FaultReport)
    source: str = ""

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def num_boxes(self) -> int:
        """M, crowd regions included."""
        return len(self.labels)

    def boxes_of(self, index: int) -> slice:
        """Rows of the box columns that belong to image `index`."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def image_id(self, index: int) -> int | str:
        """The data set's own id of image `index`."""
        value = self.image_ids[index]
        return value if isinstance(value, str) else int(value)

    def size(self, index: int) -> tuple[int, int]:
        """(h, w) of image `index`."""
        h, w = self.sizes[index]
        return int(h), int(w)

    def boxes_per_class(self) -> npt.NDArray[np.int64]:
        """(number of classes,) how many boxes, crowd regions not counted."""
        return np.bincount(self.labels[~self.iscrowd], minlength=len(self.class_map))

    def subset(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> DatasetIndex:
        """The images at `indices`, in that order."""
        chosen = np.asarray(indices, np.int64).reshape(-1)
        counts = np.diff(self.offsets)[chosen]
        offsets = np.zeros(len(chosen) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        # row r of the result is row r - (its image's new start) + (its image's old start)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], counts)
        return replace(
            self,
            paths=self.paths[chosen],
            sizes=self.sizes[chosen],
            image_ids=self.image_ids[chosen],
            offsets=offsets,
            boxes_xyxy=self.boxes_xyxy[rows],
            labels=self.labels[rows],
            iscrowd=self.iscrowd[rows],
            area=self.area[rows],
            annotation_ids=self.annotation_ids[rows],
            apply_exif=self.apply_exif[chosen],
        )

    def split(self, val_fraction: float, seed: int = 0) -> tuple[DatasetIndex, DatasetIndex]:
        """Random training and validation parts; both keep the images in their order.

        Raises:
            UsageError: the fraction is not between 0 and 1, or a part would be empty.
        """
        if not 0 < val_fraction < 1:
            raise UsageError(
                f"the validation fraction must lie between 0 and 1, got {val_fraction}"
            )
        if len(self) < 2:
            raise UsageError(f"{self.source}: {len(self)} image(s) cannot be split into two parts")
        count = min(max(round(len(self) * val_fraction), 1), len(self) - 1)
        order = np.random.default_rng([seed, 0x5B17]).permutation(len(self))
        return self.subset(np.sort(order[count:])), self.subset(np.sort(order[:count]))

    @staticmethod
    def concat(parts: Sequence[DatasetIndex]) -> DatasetIndex:
        """One data set of several that share a class map.

        Ids that would collide are numbered anew.
        """
        first = parts[0]
        if len(parts) == 1:
            return first
        ids: npt.NDArray[np.int64] | PackedStrings
        every = [part.image_id(i) for part in parts for i in range(len(part))]
        if len(set(every)) < len(every):
            ids = np.arange(len(every), dtype=np.int64)
        elif any(isinstance(value, str) for value in every):
            ids = PackedStrings.pack(map(str, every))
        else:
            ids = np.asarray(every, np.int64)
        annotation_ids = np.concatenate([part.annotation_ids for part in parts])
        if len(np.unique(annotation_ids)) < len(annotation_ids):
            annotation_ids = np.arange(1, len(annotation_ids) + 1, dtype=np.int64)
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        return replace(
            first,
            paths=PackedStrings.pack(path for part in parts for path in part.paths),
            sizes=np.concatenate([part.sizes for part in parts]),
            image_ids=ids,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes_xyxy=np.concatenate([part.boxes_xyxy for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            iscrowd=np.concatenate([part.iscrowd for part in parts]),
            area=np.concatenate([part.area for part in parts]),
            annotation_ids=annotation_ids,
            apply_exif=np.concatenate([part.apply_exif for part in parts]),
            faults=sum((part.faults for part in parts[1:]), first.faults),
        )
