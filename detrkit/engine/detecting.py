"""The stream of inference: reading, detecting, tiling and tracking, one frame after the other.

Files are decoded by threads, videos and live sources by one; the model runs in the thread of the
caller, or on a GPU one batch ahead of it, so that preparing the next batch and computing this one
overlap. Nothing waits in memory but a few batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from detrkit.engine.media.background import in_background, never
from detrkit.engine.media.frame import Frame
from detrkit.engine.media.live import STREAM_TIMEOUT, read_address, read_camera
from detrkit.engine.media.places import Address, Camera
from detrkit.engine.media.video import read_video
from detrkit.engine.read_ahead import read_ahead
from detrkit.engine.runtime import Runtime
from detrkit.engine.sources import Item, is_moving, load_image
from detrkit.engine.tiling import Tiling, Window, crop, merge
from detrkit.engine.tracks import LOWEST_SCORE, Tracking
from detrkit.errors import DataError, UsageError
from detrkit.structures import Detections

#: Called with a source that cannot be read, or not to its end, and the reason: with the path of a
#: file, with the name of a camera or stream.
OnBroken = Callable[[Path | str, DataError], None]

#: A frame and the parts of it that are looked at.
_Viewed = tuple[Frame, list[Window]]

#: Where a GPU computes, batches that are under way at once: one is prepared, one computed.
_AT_ONCE = 2


@dataclass(frozen=True)
class Reading:
    """How sources are read.

    Attributes:
        channels: of the images.
        ahead: images that are decoded in advance.
        step: every which frame of a video or live source.
        limit: at most so many images and frames; None: all.
        timeout: seconds after which a live source without frames is given up.
        on_broken: gets what cannot be read; None: that is an error.
        stop: ends the reading when it says so.
    """

    channels: int = 3
    ahead: int = 16
    step: int = 1
    limit: int | None = None
    timeout: float = STREAM_TIMEOUT
    on_broken: OnBroken | None = None
    stop: Callable[[], bool] = never

    def frames(self, items: Iterable[Item]) -> Iterator[Frame]:
        """The images of expanded sources and the frames of their videos, in order."""
        for number, frame in enumerate(self._all(items), 1):
            if self.stop():
                return
            yield frame
            if number == self.limit:
                return

    def _all(self, items: Iterable[Item]) -> Iterator[Frame]:
        load = partial(_still_or_nothing, channels=self.channels)
        for item, image in read_ahead(items, load, self.ahead):
            if isinstance(image, DataError):
                self._broken(item, image)
            elif image is not None:
                yield Frame(image, path=str(item) if isinstance(item, Path) else None)
            else:
                yield from self._moving(item)

    def _moving(self, item: Item) -> Iterator[Frame]:
        options: dict[str, Any] = {"step": self.step, "channels": self.channels}
        live: dict[str, Any] = {"timeout": self.timeout, "stop": self.stop}
        frames: Generator[Frame, None, None]
        if isinstance(item, Camera):
            frames = read_camera(item, **options, **live)
        elif isinstance(item, Address):
            frames = read_address(item, **options, **live)
        else:
            # decoded beside the model; live sources have a thread of their own
            frames = in_background(read_video(str(item), **options), self.ahead, self.stop)
        with closing(frames):
            try:
                yield from frames
            except DataError as error:
                self._broken(item, error)

    def _broken(self, item: Item, error: DataError) -> None:
        if self.on_broken is None or not isinstance(item, Path | Camera | Address):
            raise error
        self.on_broken(item if isinstance(item, Path) else str(item), error)


def _still_or_nothing(item: Item, channels: int) -> Tensor | None:
    """The pixels of a picture; None for what has frames."""
    if is_moving(item):
        return None
    assert not isinstance(item, Camera | Address)
    return load_image(item, channels)


@dataclass(frozen=True)
class Detecting:
    """What is asked of the detector.

    Attributes:
        conf: lowest score.
        classes: indices to keep; None: all.
        max_det: at most so many per image.
        batch: images, or tiles, per forward pass.
        tiling: how pictures are cut; None: not at all.
        tracking: numbers objects over the frames; None: not.
    """

    conf: float
    classes: Sequence[int] | None = None
    max_det: int = 300
    batch: int = 8
    tiling: Tiling | None = None
    tracking: Tracking | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.conf <= 1:
            raise UsageError(f"conf must lie between 0 and 1, got {self.conf}")
        if self.batch < 1 or self.max_det < 1:
            raise UsageError(
                f"batch and max_det must be at least 1, got {self.batch} and {self.max_det}"
            )

    @property
    def lowest(self) -> float:
        """The score from which on boxes are looked at."""
        return min(self.conf, LOWEST_SCORE) if self.tracking else self.conf

    def on(self, runtime: Runtime, frames: Iterable[Frame]) -> Iterator[tuple[Detections, Frame]]:
        """Detections of each frame, in order."""
        answered = self._answered(runtime, self._chunks(frames))
        for found, frame in answered:
            found = found.filter(conf=self.lowest, classes=self.classes, max_det=self.max_det)
            found = replace(found, frame=frame.number, seconds=frame.seconds)
            if self.tracking is not None:
                found = self.tracking.follow(found, frame)
            yield found, frame

    def _chunks(self, frames: Iterable[Frame]) -> Iterator[list[_Viewed]]:
        """Frames for one forward pass; one that is live does not wait for others."""
        chunk: list[_Viewed] = []
        views = 0
        for frame in frames:
            height, width = frame.size
            whole = (0, 0, width, height)
            windows = [whole] if self.tiling is None else self.tiling.views(frame.image)
            chunk.append((frame, windows))
            views += len(windows)
            if views >= self.batch or (frame.clip is not None and frame.clip.live):
                yield chunk
                chunk, views = [], 0
        if chunk:
            yield chunk

    def _answered(
        self, runtime: Runtime, chunks: Iterable[list[_Viewed]]
    ) -> Iterator[tuple[Detections, Frame]]:
        if runtime.device.type == "cpu":  # the model takes all cores: nothing to gain
            for chunk in chunks:
                yield from self._answer(runtime, chunk)
            return
        under_way: deque[Future[list[tuple[Detections, Frame]]]] = deque()
        with ExitStack() as stack:
            threads = stack.enter_context(ThreadPoolExecutor(_AT_ONCE, "detect"))
            stack.callback(lambda: [future.cancel() for future in under_way])
            for chunk in chunks:
                under_way.append(threads.submit(self._answer, runtime, chunk))
                live = chunk[-1][0].clip is not None and chunk[-1][0].clip.live
                while len(under_way) > (0 if live else _AT_ONCE):
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()

    def _answer(self, runtime: Runtime, chunk: list[_Viewed]) -> list[tuple[Detections, Frame]]:
        views = [(frame, window) for frame, windows in chunk for window in windows]
        found: list[Detections] = []
        for first in range(0, len(views), self.batch):
            part = views[first : first + self.batch]
            answers = runtime.predict(
                [crop(frame.image, window) for frame, window in part],
                [frame.path for frame, _ in part],
            )
            found += answers if self.tiling is None else [a.above(self.lowest) for a in answers]
        answer = []
        for frame, windows in chunk:
            answer.append((merge(found[: len(windows)], windows), frame))
            del found[: len(windows)]
        return answer
