"""From pictures to detections: what `detrkit.load(...)` gives and `detrkit infer` uses."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from PIL import Image
from torch import Tensor

from detrkit.engine.detecting import Detecting, OnBroken, Reading
from detrkit.engine.media.background import never
from detrkit.engine.media.frame import Frame
from detrkit.engine.media.live import STREAM_TIMEOUT
from detrkit.engine.runtime import Runtime
from detrkit.engine.sources import Source, expand, is_endless, is_single
from detrkit.engine.tiling import Tiling
from detrkit.engine.tracks import Tracking
from detrkit.errors import UsageError
from detrkit.structures import ClassMap, Detections, ImageSpec

#: Detections below this score are left out, where nothing else is said.
DEFAULT_SCORE = 0.3


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
                content of an image file as bytes; or a folder, a pattern such as "shots/*.png", a
                video, a camera ("0"), the address of a stream, or a list or generator of any of
                these. OpenCV's arrays are BGR: give `image[..., ::-1]`. A detector of C other
                channels takes arrays (H, W, C) or (C, H, W) and tensors (C, H, W).
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
        if is_endless(source) and options.get("limit") is None:
            raise UsageError(
                "a camera or stream may have no end: a list of its frames would fill the memory",
                hint="predict(source, stream=True), or limit=100",
            )
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
                tiling: also detects on overlapping tiles of so many pixels, or as a
                    `detrkit.engine.tiling.Tiling` says; for small objects in large pictures.
                track: "bytetrack", "botsort", "ocsort": only objects that are followed from frame
                    to frame, with `track_ids`.
                frame_step: every which frame of a video or stream.
                limit: at most so many images and frames.
                stream_timeout: seconds without a frame after which a camera or stream is given
                    up, default 30.
                on_broken: gets each source that cannot be read, or not to its end, and the
                    reason; such sources are passed over. None: the first one is an error.

        Raises:
            DataError: an image cannot be read and `on_broken` is None.
            UsageError: a class is not known; a number is out of range.
            MissingExtraError: PyAV or trackers is wanted and not installed.
        """
        for found, _ in self.stream_with_frames(source, **options):
            yield found

    def stream_with_frames(
        self,
        source: Source | Iterable[Source],
        *,
        conf: float = DEFAULT_SCORE,
        classes: Sequence[str | int] | None = None,
        max_det: int = 300,
        batch: int = 8,
        tiling: Tiling | int | None = None,
        track: str | None = None,
        frame_step: int = 1,
        limit: int | None = None,
        stream_timeout: float = STREAM_TIMEOUT,
        on_broken: OnBroken | None = None,
        stop: Callable[[], bool] = never,
    ) -> Generator[tuple[Detections, Frame], None, None]:
        """Like `stream`, with the pictures; `detrkit.drawing.viewable` shows their pixels.

        Args:
            source: as in `predict`.
            conf, classes, max_det, batch, tiling, track, frame_step, limit: as in `stream`.
            stream_timeout, on_broken: as in `stream`.
            stop: asked between images; ends the stream when it says so.
        """
        if frame_step < 1 or (limit is not None and limit < 1) or stream_timeout <= 0:
            raise UsageError("frame_step, limit and stream_timeout must be above 0")
        detecting = Detecting(
            conf=conf,
            classes=None if classes is None else self.class_map.indices(classes),
            max_det=max_det,
            batch=batch,
            tiling=Tiling((tiling, tiling)) if isinstance(tiling, int) else tiling,
            tracking=None if track is None else Tracking(track, conf=conf, step=frame_step),
        )
        reading = Reading(
            channels=self.image_spec.in_channels,
            ahead=2 * batch,
            step=frame_step,
            limit=limit,
            timeout=stream_timeout,
            on_broken=on_broken,
            stop=stop,
        )
        yield from detecting.on(self.runtime, reading.frames(expand(source, on_broken)))

    def rename(self, names: Sequence[str]) -> None:
        """Gives the classes other names; ids and colours stay.

        Args:
            names: one for each class, in the order of the classes.

        Raises:
            UsageError: as many as there are classes were not given.
        """
        if len(names) != len(self.class_map):
            raise UsageError(
                f"{len(names)} names for a detector of {len(self.class_map)} classes",
                hint=f"its classes: {', '.join(self.class_map.names[:20])}",
            )
        self.runtime.class_map = ClassMap(tuple(names), self.class_map.category_ids)
