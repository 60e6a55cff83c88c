"""A data set as columns: where the images are, how large, and their boxes.

Reading annotations once into a few NumPy arrays makes a million boxes cost tens of megabytes and
nothing to share with loader workers. Saved to a folder, the arrays are mapped into memory: opening
takes no time, and all processes share one copy.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.data.faults import FaultReport
from detrkit.data.folders import new_folder
from detrkit.data.strings import PackedStrings
from detrkit.errors import DataError, UsageError
from detrkit.structures import ClassMap

#: Of the files that `DatasetIndex.save` writes; others are not read.
FORMAT = 2

#: Larger indices reach loader processes as files that all of them map, not as copies.
_SHARED_FROM = 16 << 20


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
    #: Where it was loaded from, or saved to; not passed on to subsets and the like.
    _folder: str = field(default="", init=False, repr=False, compare=False)

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

    def spread(self, limit: int | None) -> DatasetIndex:
        """At most so many images, evenly spread over the data set: the same ones every time."""
        if limit is None or len(self) <= limit:
            return self
        return self.subset(np.linspace(0, len(self) - 1, limit).round().astype(np.int64))

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
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        annotation_ids = np.concatenate([part.annotation_ids for part in parts])
        if len(np.unique(annotation_ids)) < len(annotation_ids):
            annotation_ids = np.arange(1, len(annotation_ids) + 1, dtype=np.int64)
        return replace(
            first,
            paths=PackedStrings.concat([part.paths for part in parts]),
            sizes=np.concatenate([part.sizes for part in parts]),
            image_ids=_concat_ids([part.image_ids for part in parts]),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes_xyxy=np.concatenate([part.boxes_xyxy for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            iscrowd=np.concatenate([part.iscrowd for part in parts]),
            area=np.concatenate([part.area for part in parts]),
            annotation_ids=annotation_ids,
            apply_exif=np.concatenate([part.apply_exif for part in parts]),
            faults=FaultReport.merge(part.faults for part in parts),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.nbytes for column in self._columns().values())

    def save(self, folder: str | Path) -> None:
        """Writes the index into a new folder, or in place of an index that lies there.

        The folder appears complete or not at all.

        Raises:
            UsageError: something else lies there.
            OSError: it cannot be written.
        """
        folder = Path(folder)
        if folder.exists() and not (folder / _HEAD).is_file():
            raise UsageError(f"{folder} exists and holds no index: choose another folder")
        head = {
            "format": FORMAT,
            "images": len(self),
            "boxes": self.num_boxes,
            "class_map": self.class_map.to_dict(),
            "faults": self.faults.to_dict(),
            "source": self.source,
        }
        with new_folder(folder) as draft:
            for name, column in self._columns().items():
                with open(draft / f"{name}.npy", "wb") as file:
                    np.save(file, column, allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
            (draft / _HEAD).write_text(json.dumps(head), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> DatasetIndex:
        """Opens a saved index; its columns are mapped into memory and read-only.

        Raises:
            DataError: there is no index, it is damaged, or of another version of detrkit.
        """
        folder = Path(folder)
        try:
            head = json.loads((folder / _HEAD).read_text(encoding="utf-8"))
            if head["format"] != FORMAT:
                raise DataError(f"{folder}: an index of another version of detrkit")
            columns = {
                file.stem: np.asarray(np.load(file, mmap_mode="r")) for file in folder.glob("*.npy")
            }
            index = cls(
                **{name: columns[name] for name in ("sizes", "offsets", *_PER_BOX, "apply_exif")},
                paths=PackedStrings(columns["paths"], columns["path_offsets"]),
                image_ids=columns["image_ids"]
                if "image_id_offsets" not in columns
                else PackedStrings(columns["image_ids"], columns["image_id_offsets"]),
                class_map=ClassMap.from_dict(head["class_map"]),
                faults=FaultReport.from_dict(head["faults"]),
                source=head["source"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder}: not a complete index: {error}") from error
        if not index._fits(head["images"], head["boxes"]):
            raise DataError(f"{folder}: a damaged index: its columns differ in length")
        object.__setattr__(index, "_folder", str(folder.resolve()))
        return index

    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays by the names of their files."""
        ids: dict[str, npt.NDArray[Any]] = {"image_ids": np.asarray(self.image_ids)}
        if isinstance(self.image_ids, PackedStrings):
            ids = {"image_ids": self.image_ids.blob, "image_id_offsets": self.image_ids.offsets}
        return ids | {
            "paths": self.paths.blob,
            "path_offsets": self.paths.offsets,
            "sizes": self.sizes,
            "offsets": self.offsets,
            **{name: getattr(self, name) for name in _PER_BOX},
            "apply_exif": self.apply_exif,
        }

    def _fits(self, images: int, boxes: int) -> bool:
        per_image = (self.paths, self.sizes, self.image_ids, self.apply_exif, self.offsets[1:])
        return (
            all(len(column) == images for column in per_image)
            and all(len(getattr(self, name)) == boxes for name in _PER_BOX)
            and int(self.offsets[-1]) == boxes
            and int(self.paths.offsets[-1]) == len(self.paths.blob)
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A process that is being started opens the same files, if the index is large."""
        starting = context.get_spawning_popen() is not None
        folder = self._shared_folder() if starting else None
        return super().__reduce_ex__(protocol) if folder is None else (DatasetIndex.load, (folder,))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_folder": ""}  # the folder may mean nothing elsewhere

    def _shared_folder(self) -> str | None:
        if self._folder and (Path(self._folder) / _HEAD).is_file():
            return self._folder
        if self.nbytes < _SHARED_FROM:
            return None
        place = tempfile.mkdtemp(prefix="detrkit-index-")
        weakref.finalize(self, _remove, place, os.getpid())
        try:
            self.save(Path(place, "index"))
        except OSError:  # a full disk: the processes get copies
            return None
        object.__setattr__(self, "_folder", str(Path(place, "index")))
        return self._folder


_HEAD = "index.json"
_PER_BOX = ("boxes_xyxy", "labels", "iscrowd", "area", "annotation_ids")


def _concat_ids(
    parts: Sequence[npt.NDArray[np.int64] | PackedStrings],
) -> npt.NDArray[np.int64] | PackedStrings:
    """Ids of several parts; numbered anew where some would be equal."""
    count = sum(map(len, parts))
    numbers = [part for part in parts if not isinstance(part, PackedStrings)]
    if len(numbers) == len(parts):
        ids = np.concatenate(numbers)
        return ids if len(np.unique(ids)) == count else np.arange(count, dtype=np.int64)
    texts = [str(value) for part in parts for value in part]
    if len(set(texts)) < count:
        return np.arange(count, dtype=np.int64)
    return PackedStrings.pack(texts)


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked child
        shutil.rmtree(folder, ignore_errors=True)
