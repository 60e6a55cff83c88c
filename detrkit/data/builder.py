"""From annotations of any format to a `DatasetIndex`: the checks that all formats share."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.data.faults import KEPT, FaultKind, FaultReport, one_line
from detrkit.data.files import Folders
from detrkit.data.ids import as_column, narrow
from detrkit.data.image_check import CheckImages, ImageCheck
from detrkit.data.index import DatasetIndex
from detrkit.data.strings import PackedStrings, StringColumn
from detrkit.errors import DataError
from detrkit.structures import ClassMap

#: Boxes may reach this far over the border without being touched: annotations are rounded, and
#: the official evaluation sees them as written. Targets for training are clipped anyway.
BORDER = 1.0

#: Boxes that are added one by one become arrays in such portions.
_PORTION = 1 << 15


@dataclass
class Boxes:
    """R boxes of any images, as columns.

    Attributes:
        images: (R,) numbers from `IndexBuilder.add_image`.
        boxes_xyxy: (R, 4), corners in pixels of the annotated size, or as fractions.
        labels: (R,) contiguous class indices.
        iscrowd: (R,) bool, regions of many objects.
        area: (R,) float64, square pixels of the annotated size; not finite means the box's.
        annotation_ids: (R,) int64, the data set's own.
        has_id: (R,) bool, whether it has one; None for all.
        where: place of each box in its annotation file, for messages; None names the id.
    """

    images: npt.NDArray[np.int32]
    boxes_xyxy: npt.NDArray[np.floating]
    labels: npt.NDArray[np.int32]
    iscrowd: npt.NDArray[np.bool_]
    area: npt.NDArray[np.float64]
    annotation_ids: npt.NDArray[np.int64]
    has_id: npt.NDArray[np.bool_] | None = None
    where: PackedStrings | None = None

    def __len__(self) -> int:
        return len(self.images)

    def place(self, row: int) -> str:
        """Where a box stands in its annotation file."""
        if self.where is not None:
            return self.where[row]
        return f"annotation {self.annotation_ids[row]}"

    def select(self, keep: npt.NDArray[np.bool_]) -> Boxes:
        """The boxes where `keep` is true."""
        if keep.all():
            return self
        return Boxes(
            self.images[keep],
            self.boxes_xyxy[keep],
            self.labels[keep],
            self.iscrowd[keep],
            self.area[keep],
            self.annotation_ids[keep],
            None if self.has_id is None else self.has_id[keep],
            None if self.where is None else self.where[np.flatnonzero(keep)],
        )


@dataclass
class _Rows:
    """Boxes that were added one by one."""

    images: list[int] = field(default_factory=list)
    boxes: list[Sequence[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    iscrowd: list[bool] = field(default_factory=list)
    area: list[float] = field(default_factory=list)
    ids: list[int | None] = field(default_factory=list)
    where: list[str] = field(default_factory=list)

    def columns(self) -> Boxes:
        return Boxes(
            np.asarray(self.images, np.int32),
            np.asarray(self.boxes, np.float64).reshape(-1, 4),
            np.asarray(self.labels, np.int32),
            np.asarray(self.iscrowd, bool),
            np.asarray(self.area, np.float64),
            np.asarray([0 if i is None else i for i in self.ids], np.int64),
            np.asarray([i is not None for i in self.ids], bool),
            PackedStrings.pack(self.where),
        )


class IndexBuilder:
    """Collects images and boxes, then checks them all at once.

    Args:
        source: annotation file or folder, for messages.
        faults: report to add to.
        check_images: how thoroughly (see `detrkit.data.image_check`).
        folders: knows which files exist.
        fractions: boxes are given as fractions of the image's width and height.
    """

    def __init__(
        self,
        source: str,
        faults: FaultReport | None = None,
        *,
        check_images: CheckImages = "auto",
        folders: Folders | None = None,
        fractions: bool = False,
    ) -> None:
        self.source = source
        self.faults = FaultReport() if faults is None else faults
        self.check_images = check_images
        self.folders = folders or Folders()
        self.fractions = fractions
        self._paths = StringColumn()
        self._files = StringColumn()
        self._sizes = array("q")  # h, w, h, w, …
        self._ids: list[int | str] = []
        self._boxes: list[Boxes] = []
        self._rows = _Rows()

    def add_image(
        self,
        path: str | os.PathLike[str],
        image_id: int | str,
        size: tuple[int, int] | None = None,
        *,
        file: str | os.PathLike[str] | None = None,
    ) -> int:
        """Adds an image and returns its number, for `add_box`.

        Args:
            path: the file.
            image_id: the data set's id.
            size: (h, w) as annotated; None or not positive where the annotation does not say.
            file: where its boxes are annotated, for messages; None means `source`.
        """
        self._paths.append(os.fspath(path))
        self._files.append("" if file is None else os.fspath(file))
        self._ids.append(image_id)
        h, w = size or (0, 0)
        self._sizes.extend((h, w) if 0 < h < 1 << 31 and 0 < w < 1 << 31 else (0, 0))
        return len(self._ids) - 1

    def add_box(
        self,
        image: int,
        box_xyxy: Sequence[float],
        label: int,
        *,
        where: str,
        iscrowd: bool = False,
        area: float = float("nan"),
        annotation_id: int | None = None,
    ) -> None:
        """Adds a box.

        Args:
            image: number from `add_image`.
            box_xyxy: corners in pixels of the annotated size, or as fractions.
            label: contiguous class index.
            where: id within the image's annotation file, for messages.
            iscrowd: whether it is a region of many objects.
            area: square pixels, or a fraction of the image; not finite means the box's.
            annotation_id: the data set's id, if it has one.
        """
        rows = self._rows
        rows.images.append(image)
        rows.boxes.append(box_xyxy)
        rows.labels.append(label)
        rows.iscrowd.append(iscrowd)
        rows.area.append(area)
        rows.ids.append(annotation_id)
        rows.where.append(where)
        if len(rows.images) >= _PORTION:
            self._flush()

    def add_boxes(self, boxes: Boxes) -> None:
        """Adds many boxes at once; best some ten thousand."""
        self._flush()
        self._boxes.append(boxes)

    def _flush(self) -> None:
        if self._rows.images:
            self._boxes.append(self._rows.columns())
            self._rows = _Rows()

    def build(self, class_map: ClassMap) -> DatasetIndex:
        """Checks every image and box and makes the index. The builder is empty after that.

        Args:
            class_map: classes that labels refer to.

        Raises:
            DataError: no image is left.
        """
        self._flush()
        paths = self._paths.finish()
        sizes = np.array(self._sizes).reshape(-1, 2)
        images = ImageCheck(paths, self._ids, sizes, self.faults, self.folders)
        images.run(self.check_images, self.source)
        if not images.usable.any():
            raise DataError(
                f"{self.source}: none of its {len(paths)} images can be read"
                + (f", e.g. {one_line(paths[0])}" if len(paths) else ""),
                hint="are the images where the annotations say?",
            )
        boxes = _Columns(sum(map(len, self._boxes)))
        for portion in self._checked(images, class_map):
            boxes.append(portion)
        boxes.finish()
        self._number_boxes(boxes, class_map)
        counts = boxes.sort(len(paths))
        usable = np.flatnonzero(images.usable)
        index = DatasetIndex(
            paths=paths if len(usable) == len(paths) else paths[usable],
            sizes=images.sizes[usable].astype(np.int32),
            image_ids=_id_column([self._ids[i] for i in usable]),
            offsets=np.concatenate([[0], np.cumsum(counts[usable])]).astype(np.int64),
            boxes_xyxy=boxes.take("boxes_xyxy"),
            labels=boxes.take("labels").astype(np.int64),
            iscrowd=boxes.take("iscrowd"),
            area=boxes.take("area"),
            annotation_ids=boxes.take("annotation_ids"),
            class_map=class_map,
            apply_exif=images.apply_exif[usable],
            faults=self.faults,
            source=self.source,
        )
        empty = [class_map.names[i] for i in np.flatnonzero(index.boxes_per_class() == 0)]
        if empty:
            names = ", ".join(f"`{name}`" for name in empty[:8]) + (", …" if len(empty) > 8 else "")
            self.faults.add(
                FaultKind.CLASS_WITHOUT_BOXES,
                self.source,
                f"{len(empty)} of {len(class_map)} classes",
                names,
            )
        return index

    def _checked(self, images: ImageCheck, class_map: ClassMap) -> Iterator[Boxes]:
        """What is left of each portion of the boxes, in pixels of the images as read."""
        lost = 0
        self._boxes.reverse()
        while self._boxes:  # a portion is let go before the next
            boxes = self._boxes.pop()
            usable = images.usable[boxes.images]
            lost += int((~usable).sum())
            with np.errstate(over="ignore", invalid="ignore"):  # not finite: reported
                yield self._check(boxes.select(usable), images, class_map)
        if lost:
            gone = int((~images.usable).sum())
            detail = f"{lost} boxes of {gone} images"
            kind = FaultKind.SKIPPED_WITH_IMAGE
            self.faults.add(kind, self.source, "", detail, count=lost)

    @np.errstate(over="ignore", invalid="ignore")  # boxes that are left out may be of any size
    def _check(self, boxes: Boxes, images: ImageCheck, class_map: ClassMap) -> Boxes:
        """The boxes that can be used, scaled and clipped."""
        sizes = images.sizes[boxes.images]
        h, w = sizes.T
        scales = sizes[:, ::-1] if self.fractions else images.scales[boxes.images]
        corners = boxes.boxes_xyxy * np.tile(scales, 2).astype(np.float64)

        def report(kind: FaultKind, cases: npt.NDArray[np.bool_]) -> None:
            self.faults.add_all(kind, np.flatnonzero(cases).tolist(), describe)

        def describe(row: int) -> tuple[str, str, str, str]:
            number = int(boxes.images[row])
            x1, y1, x2, y2 = corners[row]
            name = Path(images.paths[number]).name
            detail = f"x {x1:g} to {x2:g}, y {y1:g} to {y2:g} in {name}, {w[row]}x{h[row]}"
            label = class_map.names[boxes.labels[row]]
            return self._file_of(number), boxes.place(row), detail, label

        finite = np.isfinite(corners).all(1)
        report(FaultKind.NOT_FINITE, ~finite)
        x1, y1, x2, y2 = np.where(finite[:, None], corners, 0).T
        positive = (x2 > x1) & (y2 > y1)
        report(FaultKind.EMPTY_BOX, finite & ~positive)
        keep = finite & positive
        inside = (x1 < w) & (y1 < h) & (x2 > 0) & (y2 > 0)
        report(FaultKind.OUTSIDE, keep & ~inside)
        keep = keep & inside
        over = (x1 < -BORDER) | (y1 < -BORDER) | (x2 > w + BORDER) | (y2 > h + BORDER)
        clipped = keep & over
        report(FaultKind.CLIPPED, clipped)
        limits = np.stack([w, h, w, h], 1)
        corners[clipped] = np.clip(corners[clipped], 0, limits[clipped])
        area = boxes.area * scales.prod(1)
        area = np.where(np.isfinite(area) & (area > 0) & ~clipped, area, _area(corners))
        checked = replace(boxes, boxes_xyxy=corners.astype(np.float32), area=area)
        return checked.select(keep)

    def _file_of(self, image: int) -> str:
        return self._files.finish()[image] or self.source

    def _number_boxes(self, boxes: _Columns, class_map: ClassMap) -> None:
        """Gives boxes without an id, or with that of another, ids of their own."""
        ids = boxes.annotation_ids
        given = np.flatnonzero(boxes.has_id)
        if len(given) == len(ids) and (ids[1:] > ids[:-1]).all():
            return
        first = np.zeros(len(ids), bool)
        first[given[np.unique(ids[given], return_index=True)[1]]] = True
        new = np.flatnonzero(~first)
        places = {row: boxes.place(row) for row in new[boxes.has_id[new]][:KEPT].tolist()}
        ids[new] = int(ids[given].max(initial=0)) + 1 + np.arange(len(new))
        self.faults.add_all(
            FaultKind.DUPLICATE_ANNOTATION_ID,
            new[boxes.has_id[new]].tolist(),
            lambda row: (
                self._file_of(boxes.images[row]),
                places[row],
                f"now {ids[row]}",
                class_map.names[boxes.labels[row]],
            ),
        )


class _Columns:
    """The boxes that were kept, in arrays that never have to grow.

    Args:
        count: as many boxes at most. Memory that is not filled is never touched.
    """

    def __init__(self, count: int) -> None:
        self.images = np.empty(count, np.int32)
        self.boxes_xyxy = np.empty((count, 4), np.float32)
        self.labels = np.empty(count, np.int32)
        self.iscrowd = np.empty(count, bool)
        self.area = np.empty(count, np.float64)
        self.annotation_ids = np.empty(count, np.int64)
        self.has_id = np.empty(count, bool)
        self._order: npt.NDArray[np.signedinteger] | None = None
        self._named: list[tuple[int, Boxes]] = []  # portions whose boxes go by other names
        self._count = 0

    def append(self, boxes: Boxes) -> None:
        """Adds a portion."""
        rows = slice(self._count, self._count + len(boxes))
        for name in ("images", "boxes_xyxy", "labels", "iscrowd", "area", "annotation_ids"):
            getattr(self, name)[rows] = getattr(boxes, name)
        self.has_id[rows] = True if boxes.has_id is None else boxes.has_id
        if boxes.where is not None:
            self._named.append((self._count, boxes))
        self._count = rows.stop

    def finish(self) -> None:
        """Leaves what was not filled away."""
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray):
                setattr(self, name, column[: self._count])

    def place(self, row: int) -> str:
        """Where a box stands in its annotation file."""
        for start, boxes in reversed(self._named):
            if start <= row < start + len(boxes):
                return boxes.place(row - start)
        return f"annotation {self.annotation_ids[row]}"

    def sort(self, count: int) -> npt.NDArray[np.int64]:
        """Lets `take` put the boxes in the order of their images, which are forgotten.

        Args:
            count: of all images.

        Returns:
            (count,) boxes of each image.
        """
        counts = np.bincount(self.images, minlength=count)
        if (self.images[1:] < self.images[:-1]).any():
            self._order = narrow(np.argsort(self.images, kind="stable"))
        del self.images, self.has_id
        return counts

    def take(self, name: str) -> npt.NDArray[Any]:
        """A column, which is no longer here then: there is never a second copy of all."""
        column: npt.NDArray[Any] = getattr(self, name)
        delattr(self, name)
        if self._order is not None:
            for part in column.T if column.ndim == 2 else (column,):
                part[...] = part[self._order]  # within the memory that it has
        if column.base is not None and len(column) < len(column.base):
            return column.copy()  # lets the rest of the memory go
        return column


def _area(boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _id_column(ids: list[int | str]) -> npt.NDArray[np.int64] | PackedStrings:
    """Ints as they are; ids of both kinds, or beyond 64 bits, as text."""
    column = as_column(ids)
    return PackedStrings.pack(map(str, ids)) if column is None else column
