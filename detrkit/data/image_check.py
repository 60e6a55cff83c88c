"""Whether images are there and as large as annotated, without opening each of a million.

    all     every image's header is read
    sample  every image must exist, which listing each folder once tells; the headers of a
            thousand are read, and those of all when the sample disagrees with the annotations
    auto    all up to 50,000 images, sample above
    none    annotations are believed, and all images taken to be where the first one is

An image whose size is not annotated has its header read in any case. What is not checked here is
settled by the same rule when the image is read (`read_indexed`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from detrkit.data.bands import WrongBands
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.files import Folders
from detrkit.data.images import ImageHeader, read_header, read_image
from detrkit.data.strings import PackedStrings
from detrkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from detrkit.data.index import DatasetIndex

logger = logging.getLogger("detrkit")

CheckImages = Literal["auto", "all", "sample", "none"]

#: Data sets with more images have only a sample of the headers read; 0.1 ms each.
ALL_UP_TO = 50_000

#: Headers in the sample: a fault of one image in 300 is found with 96 % certainty.
SAMPLE = 1_000

#: Images to try before the bands of a data set are taken for right.
FIRST_READ = 20


@dataclass(frozen=True, slots=True)
class Agreement:
    """What follows from the size of an image as annotated and in its file.

    Attributes:
        size: (h, w) to use.
        scale: (x, y) factors on the annotated boxes.
        apply_exif: whether the image is turned as its EXIF orientation says.
        fault: None where both agree.
        detail: of the fault.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    apply_exif: bool = True
    fault: FaultKind | None = None
    detail: str = ""


def agree(annotated: tuple[int, int] | None, header: ImageHeader) -> Agreement:
    """Annotations of the stored pixels ignore EXIF; for any other size the file is believed.

    Args:
        annotated: (h, w), or None where the annotation does not say.
        header: of the file.
    """
    shown = header.shown_size
    if annotated is None or annotated == shown:
        return Agreement(shown)
    if annotated == header.size:
        detail = f"orientation {header.orientation}"
        return Agreement(header.size, (1, 1), False, FaultKind.EXIF_ROTATION, detail)
    (h, w), (ah, aw) = shown, annotated
    same_aspect = abs(w * ah / (h * aw) - 1) < 0.01
    detail = f"annotated {aw}x{ah}, file {w}x{h}; boxes "
    if same_aspect:
        scale = w / aw, h / ah
        return Agreement(shown, scale, True, FaultKind.SIZE_MISMATCH, detail + "scaled")
    return Agreement(shown, (1, 1), True, FaultKind.SIZE_MISMATCH, detail + "kept as pixels")


@dataclass(frozen=True, slots=True)
class IndexedImage:
    """An image as read, and how the boxes of the index fit it.

    Attributes:
        image: (C, h, w), as `read_image` gives it.
        scale: (x, y) factors from pixels of the index to those of `image`.
        fault: what differs from the index, if anything.
    """

    image: Tensor
    scale: tuple[float, float] = (1.0, 1.0)
    fault: FaultKind | None = None


def read_indexed(index: DatasetIndex, number: int, channels: int = 3) -> IndexedImage:
    """Reads an image of an index; where it is not as the index says, `agree` decides.

    Args:
        index: of the data set.
        number: of the image.
        channels: C, as for `read_image`.

    Raises:
        DataError: it cannot be read.
    """
    path, apply_exif = index.paths[number], bool(index.apply_exif[number])
    image = read_image(path, apply_exif=apply_exif, channels=channels)
    size, expected = (int(image.shape[-2]), int(image.shape[-1])), index.size(number)
    if size == expected:
        return IndexedImage(image)
    if apply_exif and size == expected[::-1] and read_header(path).orientation >= 5:
        image = read_image(path, apply_exif=False, channels=channels)
        return IndexedImage(image, fault=FaultKind.EXIF_ROTATION)
    found = agree(expected, ImageHeader(size))
    return IndexedImage(image, found.scale, found.fault)


def check_bands(index: DatasetIndex, channels: int) -> None:
    """Reads the first image that can be read: wrong `in_channels` are better said at the start.

    Args:
        index: of the data set.
        channels: C, what the model takes.

    Raises:
        WrongBands: the image has other bands.
        MissingExtraError: a package that reads it is not installed.
    """
    for number in range(min(len(index), FIRST_READ)):
        try:
            read_indexed(index, number, channels)
        except WrongBands:
            raise
        except DataError:
            continue
        return


class ImageCheck:
    """Settles existence, size and orientation of the images of a data set.

    Args:
        paths: N image files.
        names: says which image number i is, for messages.
        annotated: (N, 2) int64, h, w; zeros where not annotated.
        faults: report to add to.
        folders: knows which files exist.

    Attributes:
        sizes: (N, 2) int64, h, w to use.
        scales: (N, 2), factors x, y on the annotated boxes.
        apply_exif: (N,) bool.
        usable: (N,) bool; the others are left out.
    """

    def __init__(
        self,
        paths: PackedStrings,
        names: list[int | str],
        annotated: npt.NDArray[np.int64],
        faults: FaultReport,
        folders: Folders,
    ) -> None:
        self.paths = paths
        self.names = names
        self.faults = faults
        self.folders = folders
        self.annotated = annotated
        self.sizes = annotated.copy()
        self.scales = np.ones((len(paths), 2))
        self.apply_exif = np.ones(len(paths), bool)
        self.usable = np.ones(len(paths), bool)

    def run(self, policy: CheckImages, source: str) -> None:
        """Checks as the policy says.

        Args:
            policy: see above.
            source: the data set, for messages and the choice of the sample.
        """
        if policy not in get_args(CheckImages):
            raise UsageError(
                f"unknown way to check images `{policy}`",
                hint=f"choose one of: {', '.join(get_args(CheckImages))}",
            )
        count = len(self.paths)
        unknown: npt.NDArray[np.bool_] = np.any(self.annotated <= 0, axis=1)
        wanted = np.ones(count, bool)
        if policy == "none":
            wanted = unknown
        for i in np.flatnonzero(wanted):
            if not self.folders.is_file(self.paths[i]):
                self.usable[i] = False
                self.faults.add(FaultKind.MISSING_IMAGE, self.paths[i], f"image {self.names[i]}")
        wanted &= self.usable
        if policy == "sample" or (policy == "auto" and count > ALL_UP_TO):
            self._sample(wanted, unknown, source)
        else:
            self._read(np.flatnonzero(wanted))

    def _sample(
        self, wanted: npt.NDArray[np.bool_], unknown: npt.NDArray[np.bool_], source: str
    ) -> None:
        known = np.flatnonzero(wanted & ~unknown)
        chosen = wanted & unknown
        sample = np.random.default_rng(0x5A).permutation(known)[:SAMPLE]
        chosen[sample] = True
        if self._read(np.flatnonzero(chosen)):
            self._read(np.flatnonzero(wanted & ~chosen))
        elif chosen.sum() < wanted.sum():
            logger.info(
                "%s: the headers of %d of %d images were read, and agree with the annotations; "
                "the others are compared when they are read",
                *(source, chosen.sum(), wanted.sum()),
            )

    def _read(self, numbers: npt.NDArray[np.int64]) -> bool:
        """Reads headers; whether one differs from its annotation."""
        differ = False
        for i in numbers.tolist():
            path, where = self.paths[i], f"image {self.names[i]}"
            h, w = self.annotated[i].tolist()
            annotated = (h, w) if h > 0 and w > 0 else None
            try:
                found = agree(annotated, read_header(path))
            except DataError as error:
                # With a known size it stays: as a failure in evaluation, replaced in training.
                self.usable[i] = annotated is not None
                outcome = "kept without pixels" if annotated else "skipped"
                reason = error.message.removeprefix(f"{path}: ")
                self.faults.add(FaultKind.CORRUPT_IMAGE, path, where, f"{outcome}: {reason}")
                continue
            if found.fault is not None:
                differ = True
                self.faults.add(found.fault, path, where, found.detail)
            self.sizes[i], self.scales[i] = found.size, found.scale
            self.apply_exif[i] = found.apply_exif
        return differ
