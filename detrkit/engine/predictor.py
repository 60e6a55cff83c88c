"""From pictures to detections: what `detrkit.load(...)` gives and `detrkit infer` uses."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np
from PIL import Image
from torch import Tensor

from detrkit.engine.runtime import Runtime
from detrkit.engine.sources import Source, expand, is_single, load_image
from detrkit.errors import DataError, UsageError
from detrkit.structures import ClassMap, Detections, ImageSpec

#: Detections below this score are left out, where nothing else is said.
DEFAULT_SCORE = 0.3

#: Called with a file that cannot be read and the reason.
OnBroken = Callable[[Path, DataError], None]

#: Threads that read images.
READERS = 4

T = TypeVar("T")


class Predictor:
    """A detector that answers with `Detections`.

        detector = detrkit.load("best.pth")
        detections = detector.predict("photo.jpg")
        for found in detector.stream("folder/"):
            found.draw().save(...)

    One detector may be used by many threads at once.

    Args:
        runtime: what computes.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    @property
    def class_map(self) -> ClassMap:
        """What it finds."""
        return self.runtime.class_map

    @property
    def image_spec(self) -> ImageSpec:
        """How pictures become its input."""
        return self.runtime.image_spec

    @overload
    def predict(
        self, source: Source | Iterable[Source], *, stream: Literal[True], **options: Any
    ) -> Iterator[Detections]: ...
    @overload
    def predict(
        self,
        source: str | Path | bytes | Image.Image | np.ndarray | Tensor,
        *,
        stream: Literal[False] = ...,
        **options: Any,
    ) -> Detections: ...
    @overload
    def predict(
        self, source: Iterable[Source], *, stream: Literal[False] = ..., **options: Any
    ) -> list[Detections]: ...
    def predict(
        self, source: Source | Iterable[Source], *, stream: bool = False, **options: Any
    ) -> Detections | list[Detections] | Iterator[Detections]:
        """Detects on one image, or on several.

        Args:
            source: a file, a picture, uint8 RGB (H, W, 3), a uint8 RGB tensor (3, H, W), the
                content of an image file as bytes; or a folder, a pattern such as "shots/*.png",
                or a list or generator of any of these. OpenCV's arrays are BGR: give
                `image[..., ::-1]`. A detector of C other channels takes arrays (H, W, C) or
                (C, H, W) and tensors (C, H, W).
            stream: answer with an iterator that computes while it is read, as the method `stream`
                does: for folders, generators and all else that is long or endless.
            options: `conf`, `classes`, `max_det`, `batch`, as in `stream`.

        Returns:
            `Detections` for one image, a list for several; best score first. With `stream` an
            iterator in either case.

        Raises:
            DataError: an image cannot be read.
        """
        if stream:
            return self.stream(source, **options)
        found = list(self.stream(source, **options))
        return found[0] if is_single(source) else found

    def stream(self, source: Source | Iterable[Source], **options: Any) -> Iterator[Detections]:
        """Detections image by image, without holding all images in memory.

        Files are read in threads while the detector works; the next sources are taken only when
        they are asked for.

        Args:
            source: as in `predict`.
            options:
                conf: lowest score, 0–1, default 0.3; 0 gives everything the detector says.
                classes: names or indices to keep; None: all.
                max_det: at most so many per image, default 300.
                batch: images per forward pass, default 8.
                on_broken: gets each file that cannot be read and the reason; such files are
                    passed over. None: the first one is an error.

        Raises:
            DataError: an image cannot be read and `on_broken` is None.
            UsageError: a class is not known; a number is out of range.
        """
        for found, _ in self.stream_with_images(source, **options):
            yield found

    def stream_with_images(
        self,
        source: Source | Iterable[Source],
        *,
        conf: float = DEFAULT_SCORE,
        classes: Sequence[str | int] | None = None,
        max_det: int = 300,
        batch: int = 8,
        on_broken: OnBroken | None = None,
    ) -> Iterator[tuple[Detections, Tensor]]:
        """Like `stream`, with the pixels (C, H, W); `detrkit.drawing.viewable` shows them."""
        if not 0 <= conf <= 1:
            raise UsageError(f"conf must lie between 0 and 1, got {conf}")
        if batch < 1 or max_det < 1:
            raise UsageError(f"batch and max_det must be at least 1, got {batch} and {max_det}")
        wanted = None if classes is None else self.class_map.indices(classes)
        load = partial(load_image, channels=self.image_spec.in_channels)
        images = self._readable(read_ahead(expand(source), load, 2 * batch), on_broken)
        while chunk := list(itertools.islice(images, batch)):
            paths = [str(s) if isinstance(s, str | Path) else None for s, _ in chunk]
            pixels = [image for _, image in chunk]
            for found, image in zip(self.runtime.predict(pixels, paths), pixels, strict=True):
                yield found.filter(conf=conf, classes=wanted, max_det=max_det), image

    def _readable(
        self,
        images: Iterator[tuple[Source, Tensor | DataError]],
        on_broken: OnBroken | None,
    ) -> Iterator[tuple[Source, Tensor]]:
        for source, image in images:
            if not isinstance(image, DataError):
                yield source, image
            elif on_broken is None or not isinstance(source, str | Path):
                raise image
            else:
                on_broken(Path(source), image)


def read_ahead(
    items: Iterable[T], load: Callable[[T], Tensor], depth: int
) -> Iterator[tuple[T, Tensor | DataError]]:
    """Items in order with what `load` gives or the error it raises; `depth` of them in advance.

    Reading and decoding images leave Python's lock, so threads suffice.
    """
    pending: deque[tuple[T, Future[Tensor]]] = deque()
    with ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="read") as readers:
        try:
            for item in items:
                pending.append((item, readers.submit(load, item)))
                if len(pending) >= depth:
                    yield _result(*pending.popleft())
            while pending:
                yield _result(*pending.popleft())
        finally:
            for _, image in pending:
                image.cancel()


def _result(item: T, image: Future[Tensor]) -> tuple[T, Tensor | DataError]:
    try:
        return item, image.result()
    except DataError as error:
        return item, error
