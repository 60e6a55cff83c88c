"""Making images smaller, in many processes, with a stop at any moment.

Every file appears under its name only when it is complete, so whatever is there after a crash is
finished work: it is looked at and not done again. Worker processes import this file, so it imports
little.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image

from detrkit.convert.placing import Place, put
from detrkit.errors import DetrkitError
from detrkit.files import cannot_write

_AT_ONCE = 8  # images in one message to a worker: so many are finished after Ctrl-C
_AHEAD = 8  # messages per worker


@dataclass(frozen=True, slots=True)
class Job:
    """One image.

    Attributes:
        source: the file.
        target: where it or its smaller form comes.
    """

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an image.

    Attributes:
        size: (h, w) of the source; zeros where it cannot be read.
        new_size: (h, w) of the target.
        error: why the source cannot be used; empty where it can.
    """

    size: tuple[int, int] = (0, 0)
    new_size: tuple[int, int] = (0, 0)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Resizing:
    """How images are made smaller.

    Attributes:
        longest: pixels that the longer side may have; 0 leaves all as they are.
        quality: of JPEG files, 1–100.
        place: how images that are small enough come to their target.
    """

    longest: int
    quality: int
    place: Place

    def new_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) for an image of (h, w): sides times `scale`, without the fraction.

        Rounding errors of the scale may cost the longer side one pixel, as in the authors' code.
        """
        h, w = size
        scale = self.scale(size)
        return (h, w) if scale == 1 else (max(int(h * scale), 1), max(int(w * scale), 1))

    def scale(self, size: tuple[int, int]) -> float:
        """By what to multiply boxes in an image of (h, w)."""
        longest = max(size)
        return self.longest / longest if 0 < self.longest < longest else 1.0

    def do(self, job: Job) -> Outcome:
        """Makes the target, unless it is there and complete.

        Raises:
            DetrkitError: it cannot be written.
        """
        target = Path(job.target)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF, large pictures
            try:
                with Image.open(job.source) as image:
                    size = image.size[::-1]
                    new_size = self.new_size(size)
                    if new_size != size and not _is_complete(target, new_size):
                        _write(target, self._smaller(image, new_size))
            except (DetrkitError, MemoryError):
                raise
            except Exception as error:  # damaged files make Pillow raise about anything
                return Outcome(error=str(error) or type(error).__name__)
        if new_size == size and not _is_same(target, job.source):
            put(Path(job.source), target, self.place)
        return Outcome(size, new_size)

    def _smaller(self, image: Image.Image, size: tuple[int, int]) -> bytes:
        """The encoded image with (h, w), in the format of the source."""
        form = image.format or "JPEG"
        if form in ("JPEG", "MPO") and image.mode not in ("L", "RGB", "CMYK"):
            image = image.convert("RGB")
        small = image.resize(size[::-1], Image.Resampling.LANCZOS)
        encoded = io.BytesIO()
        small.save(encoded, "JPEG" if form == "MPO" else form, quality=self.quality)
        return encoded.getvalue()


def resize_all(jobs: Iterable[Job], how: Resizing, workers: int) -> Iterator[Outcome]:
    """Outcomes in the order of the jobs.

    Args:
        jobs: taken as they are needed.
        how: size and quality.
        workers: processes; 0 works in this one.

    Raises:
        DetrkitError: a target cannot be written, or a process was killed.
    """
    remaining = iter(jobs)
    if workers == 0:
        yield from map(how.do, remaining)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    pending: deque[Future[list[Outcome]]] = deque()
    try:
        while True:
            while len(pending) < workers * _AHEAD:
                batch = list(islice(remaining, _AT_ONCE))
                if not batch:
                    break
                pending.append(pool.submit(_do_all, how, batch))
            if not pending:
                return
            yield from pending.popleft().result()
    except BrokenProcessPool as error:
        raise DetrkitError(
            "a process that resizes images was killed",
            hint="is the memory full? fewer --workers need less; what is done stays done",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Of the processor, as many as this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _do_all(how: Resizing, jobs: list[Job]) -> list[Outcome]:
    return [how.do(job) for job in jobs]


def _start_worker() -> None:
    """Ctrl-C reaches every process; the main one decides what to do. Without it, a worker ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _is_same(target: Path, source: str) -> bool:
    """Whether the target is the source or a copy of its length."""
    try:
        return target.stat().st_size == os.stat(source).st_size
    except OSError:
        return False


def _is_complete(target: Path, size: tuple[int, int]) -> bool:
    """Whether the target is an image of (h, w) that does not end early."""
    try:
        with Image.open(target) as image:
            if image.size[::-1] != size:
                return False
            if image.format != "JPEG":
                image.load()
                return True
        with target.open("rb") as file:
            file.seek(-2, os.SEEK_END)
            return file.read() == b"\xff\xd9"
    except Exception:  # as above
        return False


def _write(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(target, error) from error
