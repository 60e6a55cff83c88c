"""From annotations of any format to a `DatasetIndex`: the checks that all formats share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.images import ImageHeader, read_header
from detrkit.data.index import DatasetIndex
from detrkit.data.strings import PackedStrings
from detrkit.errors import DataError
from detrkit.structures import ClassMap

#: Boxes may reach this far over the border without being touched: annotations are rounded, and
#: the official evaluation sees them as written. Targets for training are clipped anyway.
BORDER = 1.0


@dataclass
class IndexBuilder:
    """Collects images and boxes, then checks them all at once.

    Args:
        class_map: classes that labels refer to.
        source: annotation file or folder, for messages.
        faults: report to add to.
    """

    class_map: ClassMap
    source: str
    faults: FaultReport = field(default_factory=FaultReport)
    _paths: list[str] = field(default_factory=list)
    _sizes: list[tuple[int, int] | None] = field(default_factory=list)
    _ids: list[int | str] = field(default_factory=list)
    _boxes: list[Sequence[float]] = field(default_factory=list)
    _owners: list[int] = field(default_factory=list)
    _labels: list[int] = field(default_factory=list)
    _crowds: list[bool] = field(default_factory=list)
    _areas: list[float] = field(default_factory=list)
    _box_ids: list[int | None] = field(default_factory=list)
    _places: list[tuple[str, str]] = field(default_factory=list)

    def add_image(
        self,
        path: str | os.PathLike[str],
        image_id: int | str,
        size: tuple[int, int] | None = None,
    ) -> int:
        """Adds an image and returns its number, for `add_box`.

        Args:
            path: the file.
            image_id: the data set's id.
            size: (h, w) as annotated; None when the annotation does not say.
        """
        self._paths.append(os.fspath(path))
        self._ids.append(image_id)
        self._sizes.append(size if size is not None and min(size) > 0 else None)
        return len(self._paths) - 1

    def add_box(
        self,
        image: int,
        box_xyxy: Sequence[float],
        label: int,
        *,
        file: str,
        where: str,
        iscrowd: bool = False,
        area: float = float("nan"),
        annotation_id: int | None = None,
    ) -> None:
        """Adds a box.

        Args:
            image: number from `add_image`.
            box_xyxy: corners in pixels of the annotated size.
            label: contiguous class index.
            file: annotation file, for messages.
            where: id within the file, for messages.
            iscrowd: whether it is a region of many objects.
            area: square pixels; not finite means the box's.
            annotation_id: the data set's id, if it has one.
        """
        self._owners.append(image)
        self._boxes.append(box_xyxy)
        self._labels.append(label)
        self._crowds.append(iscrowd)
        self._areas.append(area)
        self._box_ids.append(annotation_id)
        self._places.append((file, where))

    def build(self) -> DatasetIndex:
        """Checks every image and box and makes the index.

        Raises:
            DataError: no image is left.
        """
        sizes, scales, exif, usable = self._check_images()
        if not usable.any():
            raise DataError(
                f"{self.source}: none of its {len(self._paths)} images can be read"
                + (f", e.g. {self._paths[0]}" if self._paths else ""),
                hint="are the images where the annotations say?",
            )
        owners = np.asarray(self._owners, np.int64)
        boxes = np.asarray(self._boxes, np.float64).reshape(-1, 4)
        keep = usable[owners] if len(owners) else np.zeros(0, bool)
        boxes = boxes * np.tile(scales[owners], 2)
        keep, clipped = self._check_boxes(boxes, sizes[owners], keep)
        areas = np.asarray(self._areas, np.float64) * scales[owners].prod(1)
        own = np.where(np.isfinite(areas) & (areas > 0) & ~clipped, areas, _area(boxes))
        ids = self._unique_ids(keep)

        order = np.argsort(owners[keep], kind="stable")
        rows = np.flatnonzero(keep)[order]
        images = np.flatnonzero(usable)
        counts = np.bincount(owners[rows], minlength=len(usable))[images]
        index = DatasetIndex(
            paths=PackedStrings.pack(self._paths[i] for i in images),
            sizes=sizes[images].astype(np.int32),
            image_ids=_id_column([self._ids[i] for i in images]),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes_xyxy=boxes[rows].astype(np.float32),
            labels=np.asarray(self._labels, np.int64)[rows],
            iscrowd=np.asarray(self._crowds, bool)[rows],
            area=own[rows],
            annotation_ids=ids[rows],
            class_map=self.class_map,
            apply_exif=exif[images],
            faults=self.faults,
            source=self.source,
        )
        empty = [self.class_map.names[i] for i in np.flatnonzero(index.boxes_per_class() == 0)]
        if empty:
            names = ", ".join(f"`{name}`" for name in empty[:8]) + (", …" if len(empty) > 8 else "")
            self.faults.add(
                FaultKind.CLASS_WITHOUT_BOXES,
                self.source,
                f"{len(empty)} of {len(self.class_map)} classes",
                names,
            )
        return index

    def _check_images(
        self,
    ) -> tuple[
        npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]
    ]:
        """Sizes (N, 2) h, w; box scales (N, 2) x, y; EXIF (N,); usable (N,)."""
        count = len(self._paths)
        sizes = np.ones((count, 2), np.int64)
        scales = np.ones((count, 2))
        exif = np.ones(count, bool)
        usable = np.ones(count, bool)
        for i, (path, annotated) in enumerate(zip(self._paths, self._sizes, strict=True)):
            where = f"image {self._ids[i]}"
            if not os.path.isfile(path):
                self.faults.add(FaultKind.MISSING_IMAGE, path, where)
                usable[i] = False
                continue
            try:
                header = read_header(path)
            except DataError as error:
                # With a known size it stays: as a failure in evaluation, replaced in training.
                usable[i] = annotated is not None
                outcome = "kept without pixels" if usable[i] else "skipped"
                reason = error.message.removeprefix(f"{path}: ")
                self.faults.add(FaultKind.CORRUPT_IMAGE, path, where, f"{outcome}: {reason}")
                sizes[i] = annotated or (1, 1)
                continue
            sizes[i], scales[i], exif[i] = self._settle_size(path, where, annotated, header)
        return sizes, scales, exif, usable

    def _settle_size(
        self, path: str, where: str, annotated: tuple[int, int] | None, header: ImageHeader
    ) -> tuple[tuple[int, int], tuple[float, float], bool]:
        """Size (h, w) to use, scale (x, y) of the boxes, and whether EXIF applies."""
        shown = header.shown_size
        if annotated is None or annotated == shown:
            return shown, (1.0, 1.0), True
        if annotated == header.size:
            self.faults.add(
                FaultKind.EXIF_ROTATION, path, where, f"orientation {header.orientation}"
            )
            return header.size, (1.0, 1.0), False
        (h, w), (ah, aw) = shown, annotated
        same_aspect = abs(w * ah / (h * aw) - 1) < 0.01
        self.faults.add(
            FaultKind.SIZE_MISMATCH,
            path,
            where,
            f"annotated {aw}x{ah}, file {w}x{h}; boxes "
            + ("scaled" if same_aspect else "kept as pixels"),
        )
        return shown, ((w / aw, h / ah) if same_aspect else (1.0, 1.0)), True

    def _check_boxes(
        self,
        boxes: npt.NDArray[np.float64],
        sizes: npt.NDArray[np.int64],
        keep: npt.NDArray[np.bool_],
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Clips `boxes` in place; which to keep and which were clipped."""
        finite = np.logical_and.reduce(np.isfinite(boxes), axis=1)
        self._report(FaultKind.NOT_FINITE, keep & ~finite, boxes, sizes)
        keep = keep & finite
        x1, y1, x2, y2 = np.where(finite[:, None], boxes, 0).T
        positive = (x2 > x1) & (y2 > y1)
        self._report(FaultKind.EMPTY_BOX, keep & ~positive, boxes, sizes)
        keep = keep & positive
        h, w = sizes.T
        inside = (x1 < w) & (y1 < h) & (x2 > 0) & (y2 > 0)
        self._report(FaultKind.OUTSIDE, keep & ~inside, boxes, sizes)
        keep = keep & inside
        over = (x1 < -BORDER) | (y1 < -BORDER) | (x2 > w + BORDER) | (y2 > h + BORDER)
        clipped = keep & over
        self._report(FaultKind.CLIPPED, clipped, boxes, sizes)
        limits = np.stack([w, h, w, h], 1)
        boxes[clipped] = np.clip(boxes[clipped], 0, limits[clipped])
        return keep, clipped

    def _report(
        self,
        kind: FaultKind,
        cases: npt.NDArray[np.bool_],
        boxes: npt.NDArray[np.float64],
        sizes: npt.NDArray[np.int64],
    ) -> None:
        for i in np.flatnonzero(cases):
            file, where = self._places[i]
            x1, y1, x2, y2 = boxes[i]
            image = Path(self._paths[self._owners[i]]).name
            detail = (
                f"x {x1:g} to {x2:g}, y {y1:g} to {y2:g} in {image}, {sizes[i, 1]}x{sizes[i, 0]}"
            )
            self.faults.add(kind, file, where, detail)

    def _unique_ids(self, keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Annotation ids; missing ones counted up, repeated ones replaced."""
        given = [i for i in self._box_ids if i is not None]
        free = max(given, default=0) + 1
        seen: set[int] = set()
        ids = np.zeros(len(self._box_ids), np.int64)
        for row, value in enumerate(self._box_ids):
            if value is None or value in seen:
                if value is not None and keep[row]:
                    file, where = self._places[row]
                    self.faults.add(FaultKind.DUPLICATE_ANNOTATION_ID, file, where, f"now {free}")
                value, free = free, free + 1
            seen.add(value)
            ids[row] = value
        return ids


def _area(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _id_column(ids: list[int | str]) -> npt.NDArray[np.int64] | PackedStrings:
    if all(isinstance(value, int) for value in ids):
        return np.asarray(ids, np.int64)
    return PackedStrings.pack(str(value) for value in ids)
