"""From uploads to detections: decoding in threads, the model in batches, one answer for each."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from detrkit.data.image_bytes import ImageBytes
from detrkit.data.images import read_header, read_image
from detrkit.engine.predictor import Predictor
from detrkit.errors import DetrkitError
from detrkit.serving.batcher import Batcher, QueueFull
from detrkit.serving.memory import Held, Memory
from detrkit.serving.metrics import Counter, Gauge, Histogram, Metric, text_of
from detrkit.serving.refusals import Refused, because_of, busy
from detrkit.serving.settings import Settings
from detrkit.structures import Detections

log = logging.getLogger("detrkit")

#: Upper bounds of the histograms: seconds; images.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Service:
    """A detector that many ask at once.

    Args:
        detector: what finds.
        settings: limits and batching.
        name: of the weights, for people.
    """

    def __init__(self, detector: Predictor, settings: Settings, name: str) -> None:
        self.detector, self.settings, self.name = detector, settings, name
        self.memory = Memory(settings.memory)
        #: Whether the model answered once.
        self.ready = False
        self.requests = Counter("detrkit_requests_total", "Answered requests.", ("path", "status"))
        self.seconds = Histogram(
            "detrkit_request_seconds", "From request to answer, where detections were asked for.",
            SECONDS,
        )  # fmt: skip
        self.batches = Histogram("detrkit_batch_images", "Images per forward pass.", IMAGES)
        self.forward = Histogram("detrkit_forward_seconds", "Duration of forward passes.", SECONDS)
        self.batcher = Batcher(
            detector.runtime.predict,
            size=settings.batch,
            wait=settings.batch_wait,
            capacity=settings.queue,
            workers=settings.workers,
            on_batch=self._count_batch,
        )
        self._decoders = ThreadPoolExecutor(min(os.cpu_count() or 1, 8), "decode")
        self._metrics: Sequence[Metric] = (
            self.requests,
            self.seconds,
            self.batches,
            self.forward,
            Gauge("detrkit_queue_images", "Images that wait for the model.", self._waiting),
            Gauge("detrkit_held_bytes", "Bytes of uploads and pictures.", lambda: self.memory.used),
            Gauge("detrkit_ready", "1 when the model answers.", lambda: float(self.healthy)),
        )

    @property
    def healthy(self) -> bool:
        """Whether the model answered, at first and in its latest forward pass."""
        return self.ready and self.batcher.failure is None

    def metrics(self) -> str:
        """In Prometheus' format."""
        return text_of(self._metrics)

    def warm_up(self, on_failure: Callable[[Exception], None]) -> threading.Thread:
        """Lets the model answer once, alone and with a full batch, in a thread.

        Args:
            on_failure: is told when it cannot.
        """

        def work() -> None:
            started = time.perf_counter()
            spec = self.detector.image_spec
            blank = torch.zeros((spec.in_channels, *spec.size), dtype=torch.uint8)
            try:
                for count in sorted({1, min(self.settings.batch, self.settings.queue)}):
                    for found in self.batcher.submit([blank] * count):
                        found.result()
            except Exception as error:  # whatever a model does; nobody else waits for this thread
                on_failure(error)
                return
            self.ready = True
            log.info("ready after %.1f s", time.perf_counter() - started)

        thread = threading.Thread(target=work, name="warm-up", daemon=True)
        thread.start()
        return thread

    async def detect(self, uploads: Sequence[ImageBytes], held: Held) -> list[Detections | Refused]:
        """Everything the model says about each image, or why that one gets no answer.

        Args:
            uploads: not decoded yet.
            held: counts the decoded pixels.

        Raises:
            Refused: 503, the whole request would have to wait too long.
        """
        if self.batcher.waiting + len(uploads) > self.settings.queue:
            raise busy("the queue is full")  # before anything is decoded in vain
        loop = asyncio.get_running_loop()
        with self.batcher.announced():
            images = await asyncio.gather(
                *(loop.run_in_executor(self._decoders, self._decoded, u, held) for u in uploads)
            )
            try:
                waiting = self.batcher.submit([i for i in images if not isinstance(i, Refused)])
            except QueueFull:
                raise busy("the queue is full") from None
        found = iter(
            await asyncio.gather(*map(asyncio.wrap_future, waiting), return_exceptions=True)
        )
        return [i if isinstance(i, Refused) else _answer(next(found)) for i in images]

    def close(self) -> None:
        """Computes what waits, then ends the threads."""
        self.batcher.close()
        self._decoders.shutdown(cancel_futures=True)

    def _decoded(self, upload: ImageBytes, held: Held) -> Tensor | Refused:
        channels = self.detector.image_spec.in_channels
        limit = self.settings.max_pixels
        try:
            height, width = read_header(upload).size
            if height * width > limit:
                return Refused(
                    413,
                    f"{upload}: {width} x {height} are more than {limit:,} pixels",
                    hint="send a smaller picture; `detrkit serve --max-pixels` sets the limit",
                )
            held.take(height * width * (3 if channels == 3 else 4 * channels))
            return read_image(upload, channels=channels)
        except Refused as refusal:
            if refusal.status == 503:
                raise
            return refusal
        except DetrkitError as error:
            return because_of(error)
        except Exception as error:  # decoders raise about anything on what was made to break them
            log.debug("%s: %r", upload, error)
            return Refused(422, f"{upload}: damaged image ({type(error).__name__})")

    def _count_batch(self, images: int, seconds: float) -> None:
        if self.ready:  # the first ones, for warming up, nobody asked for
            self.batches.observe(images)
            self.forward.observe(seconds)

    def _waiting(self) -> float:
        return self.batcher.waiting


def _answer(found: Detections | BaseException) -> Detections | Refused:
    if isinstance(found, BaseException):
        log.error("the model failed: %s: %s", type(found).__name__, found)
        log.debug("%s", "".join(traceback.format_exception(found)))
        return Refused(500, "the model failed on this image")
    finite = np.isfinite(found.boxes_xyxy).all(axis=1)
    if not finite.all():  # JSON has no word for them
        log.warning("left out, for they are no numbers: %d boxes of the model", (~finite).sum())
    return found.select(np.asarray(finite))
