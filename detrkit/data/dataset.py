"""Images with targets, transformed; randomness depends on (seed, epoch, index) and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from detrkit.data.canvas import Canvas
from detrkit.data.coco import open_coco
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.files import ImageFinder
from detrkit.data.image_check import CheckImages, read_indexed
from detrkit.data.index import DatasetIndex
from detrkit.data.picture_store import Picture, PictureStore, limited
from detrkit.data.sample import Sample, SampleKey
from detrkit.data.text import read_text
from detrkit.data.transforms import Compose
from detrkit.data.transforms.compose import Transform
from detrkit.data.unreadable import FolderGone
from detrkit.data.voc import read_voc
from detrkit.errors import ConfigError, DataError
from detrkit.files import has_gone, patiently
from detrkit.registry import MODULES
from detrkit.structures import ClassMap

logger = logging.getLogger("detrkit")

#: Other images to try in place of an unreadable one before the data set is given up.
MAX_REPLACEMENTS = 20

#: What may turn out to be wrong with an image when it is read.
_MET = (None, FaultKind.CORRUPT_IMAGE, FaultKind.SIZE_MISMATCH, FaultKind.EXIF_ROTATION)
#: Said by every process of a distributed run: each meets images of its own.
_OF_ITS_OWN = {"every_process": True}


class DetectionDataset(Dataset[Sample]):
    """Samples of an index.

    An image that cannot be read never stops a run. In training another one takes its place,
    always the same for the same (seed, epoch, index). In evaluation it stays, as a gray picture
    whose objects count as missed. Both are counted: `broken` is shared with loader workers and
    `report_broken` tells the user once about each file. Only a folder that is gone, and after a
    quarter of a minute is not back, ends the run: a disk or a share that was unmounted.

    Args:
        index: what to read, or a function that opens it when it is first needed.
        transforms: applied to each sample; a function of (sample, rng) will do.
        training: replace unreadable images and leave crowd regions out of the targets.
        seed: of all randomness.
        epoch: used when a sample is asked for by a bare number.
        in_channels: C of the images: 3 for RGB, 1 for gray, else the bands of the files.

    Attributes:
        max_side: in training, images are shrunk to at most this many pixels before anything else
            happens to them; None: never.
        store: pictures that are decoded already (`detrkit.data.caching`); None: there are none.
    """

    def __init__(
        self,
        index: DatasetIndex | Callable[[], DatasetIndex],
        transforms: Compose | Transform | None = None,
        *,
        training: bool = True,
        seed: int = 0,
        epoch: int = 0,
        in_channels: int = 3,
    ) -> None:
        self._index = index
        self.transforms = transforms
        self.training = training
        self.seed = seed
        self.epoch = epoch
        self.in_channels = in_channels
        self.max_side: int | None = None
        self.store: PictureStore | None = None
        self._reported: set[int] = set()

    @property
    def index(self) -> DatasetIndex:
        """Where images and boxes are."""
        if not isinstance(self._index, DatasetIndex):
            self._index = self._index()
        return self._index

    @property
    def class_map(self) -> ClassMap:
        """Names and ids of the classes."""
        return self.index.class_map

    @cached_property
    def broken(self) -> torch.Tensor:
        """(N,) uint8 in shared memory; images that turned out to be wrong, by place in `_MET`.

        1 stands for unreadable ones.
        """
        return torch.zeros(len(self.index), dtype=torch.uint8).share_memory_()

    def part(self, index: DatasetIndex) -> DetectionDataset:
        """Some of its images, read and transformed as it does."""
        return DetectionDataset(
            index,
            self.transforms,
            training=self.training,
            seed=self.seed,
            in_channels=self.in_channels,
        )

    def extend(self, more: DatasetIndex) -> None:
        """Adds images behind its own, of the same classes; before the first one is read."""
        assert "broken" not in self.__dict__
        self._index = DatasetIndex.concat([self.index, more])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: int | SampleKey) -> Sample:
        if not isinstance(key, SampleKey):
            key = SampleKey(self.epoch, 0, int(key))
        repeat = [key.repeat] if key.repeat else []
        rng = np.random.default_rng([self.seed, key.epoch, key.index, *repeat])
        sample = self.load(key, rng)
        if self.transforms is not None:
            sample.source = self
            sample = self.transforms(sample, rng)
            sample.source = None  # a sample that travels does not take the data set along
        return sample

    def other(self, number: int) -> Sample:
        """Image `number` before any transform, for transforms that combine pictures.

        An unreadable one is replaced, in every epoch by the same.
        """
        rng = np.random.default_rng([self.seed, 0, number, 0x07E2])
        return self.load(SampleKey(0, 0, number), rng)

    def load(self, key: SampleKey, rng: np.random.Generator) -> Sample:
        """A sample before any transform.

        Raises:
            FolderGone: the image's folder cannot be reached.
            DataError: training, and neither the image nor `MAX_REPLACEMENTS` others can be read.
        """
        number = key.index
        for _ in range(MAX_REPLACEMENTS):
            try:
                return self._read(number, key)
            except FolderGone:
                raise
            except DataError as error:
                self.broken[number] = 1
                if not self.training:
                    return self._blank(number, key)
                reason = error
                number = int(rng.integers(len(self)))
        raise DataError(
            f"{self.index.source}: {MAX_REPLACEMENTS} images in a row cannot be read; "
            f"the last one: {reason.message}",
            hint="is the disk or the mount still there?",
        )

    def picture(self, number: int) -> Picture:
        """Image `number`, from the store if it is there.

        Raises:
            DataError: it cannot be read.
        """
        picture = self.store.get(number) if self.store is not None else None
        if picture is None:
            picture = self.decoded(number)
            if self.store is not None:
                self.store.mend(number, picture)
        return picture

    def decoded(self, number: int) -> Picture:
        """Image `number`, from its file.

        Raises:
            FolderGone: its folder cannot be reached.
            DataError: it cannot be read.
        """
        path = self.index.paths[number]
        try:
            found = patiently(partial(read_indexed, self.index, number, self.in_channels), path)
        except DataError as error:
            if not has_gone(path, error):
                raise
            raise FolderGone(f"{error.message}; its folder cannot be reached") from error
        size = (found.image.shape[-2], found.image.shape[-1])
        smaller = limited(size, self.max_side if self.training else None)
        pixels = found.image
        if smaller != size:
            pixels, _ = Canvas.of(pixels, exact=False).render(smaller)
        return Picture(pixels, size, found.scale, found.fault)

    def _read(self, number: int, key: SampleKey) -> Sample:
        index = self.index
        picture = self.picture(number)
        if picture.fault is not None:
            self.broken[number] = _MET.index(picture.fault)
        rows = index.boxes_of(number)
        sample = Sample(
            Canvas.of(picture.pixels, exact=not self.training),
            index.boxes_xyxy[rows] * np.array(picture.box_scale * 2, np.float32),
            index.labels[rows].copy(),
            index.area[rows] * float(picture.scale[0] * picture.scale[1]),
            image_id=index.image_id(number),
            # what is found is told in pixels of the index, with which it will be compared
            orig_size=index.size(number) if picture.scale != (1.0, 1.0) else picture.size,
            path=index.paths[number],
            key=key,
        )
        if self.training:
            sample.select(~index.iscrowd[rows])
        sample.clip()
        return sample

    def _blank(self, number: int, key: SampleKey) -> Sample:
        size = self.index.size(number)
        rows = self.index.boxes_of(number)
        return Sample(
            Canvas.of(torch.full((self.in_channels, *size), 114, dtype=torch.uint8)),
            self.index.boxes_xyxy[rows].copy(),
            self.index.labels[rows].copy(),
            self.index.area[rows].copy(),
            image_id=self.index.image_id(number),
            orig_size=size,
            path=self.index.paths[number],
            key=key,
        )

    def report_broken(self) -> list[str]:
        """Warns about images that turned out to be wrong since the last call.

        Returns:
            Paths of the unreadable ones.
        """
        if "broken" not in self.__dict__:
            return []
        new = [int(i) for i in torch.nonzero(self.broken).flatten() if int(i) not in self._reported]
        self._reported.update(new)
        faults = FaultReport()
        for i in new:
            kind = _MET[int(self.broken[i])]
            assert kind is not None
            for report in (faults, self.index.faults):
                report.add(kind, self.index.paths[i], f"image {self.index.image_id(i)}")
        paths = [self.index.paths[i] for i in new if int(self.broken[i]) == 1]
        FaultReport(f for f in faults if f.kind is not FaultKind.CORRUPT_IMAGE).log()
        for path in paths[:3]:
            outcome = "replaced by another" if self.training else "counted as without detections"
            logger.warning("%s: unreadable image, %s", path, outcome, extra=_OF_ITS_OWN)
        if len(paths) > 3:
            logger.warning("… and %d more unreadable images", len(paths) - 3, extra=_OF_ITS_OWN)
        return paths


def _compose(transforms: Any) -> Compose | Transform | None:
    """The authors' files give transforms as an object, a list of mappings, or not at all."""
    if transforms is None or callable(transforms):
        return transforms
    if isinstance(transforms, Sequence):
        return Compose(transforms)
    raise ConfigError(f"transforms must be a Compose or a list, got {transforms!r}")


@MODULES.register(
    family="data", inject=("transforms",), share=("remap_mscoco_category", "in_channels")
)
class CocoDetection(DetectionDataset):
    """A COCO file and its images, read when first needed.

    Labels are the ranks of the category ids, so `remap_mscoco_category` changes nothing for
    COCO itself and other data sets need no renumbering.

    Args:
        img_folder: folder of the images.
        ann_file: COCO JSON.
        transforms: applied to each sample.
        return_masks: only False: there is no segmentation.
        remap_mscoco_category: accepted for the authors' files.
        in_channels: of the images.

    Attributes:
        check_images: how thoroughly (see `detrkit.data.image_check`); to be set before it is read.
    """

    def __init__(
        self,
        img_folder: str,
        ann_file: str,
        transforms: Any = None,
        return_masks: bool = False,
        remap_mscoco_category: bool = False,
        in_channels: int = 3,
    ) -> None:
        if return_masks:
            raise ConfigError("CocoDetection: return_masks is not supported, detrkit detects boxes")
        super().__init__(self._open, _compose(transforms), in_channels=in_channels)
        self.img_folder = img_folder
        self.ann_file = ann_file
        self.remap_mscoco_category = remap_mscoco_category
        self.check_images: CheckImages = "auto"

    def _open(self) -> DatasetIndex:
        index = open_coco(self.ann_file, self.img_folder, check_images=self.check_images)
        index.faults.log()
        return index


@MODULES.register(family="data", inject=("transforms",), share=("in_channels",))
class VOCDetection(DetectionDataset):
    """A list of image and XML pairs, as the authors' VOC files have it.

    Args:
        root: folder that the other paths are relative to.
        ann_file: lines of `image.jpg annotation.xml`.
        label_file: one class name per line.
        transforms: applied to each sample.
        in_channels: of the images.

    Attributes:
        check_images: how thoroughly (see `detrkit.data.image_check`); to be set before it is read.
    """

    def __init__(
        self,
        root: str,
        ann_file: str = "trainval.txt",
        label_file: str = "label_list.txt",
        transforms: Any = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__(self._open, _compose(transforms), in_channels=in_channels)
        self.root = root
        self.ann_file = ann_file
        self.label_file = label_file
        self.check_images: CheckImages = "auto"

    def _open(self) -> DatasetIndex:
        root = Path(self.root)
        names = [line.strip() for line in read_text(root / self.label_file).splitlines()]
        classes = ClassMap.from_names(name for name in names if name)
        pairs = [line.split() for line in read_text(root / self.ann_file).splitlines()]
        pairs = [pair for pair in pairs if len(pair) >= 2]
        index = read_voc(
            [root / pair[1] for pair in pairs],
            ImageFinder([root]),
            classes,
            root / self.ann_file,
            images=[root / pair[0] for pair in pairs],
            check_images=self.check_images,
        )
        index.faults.log()
        return index
