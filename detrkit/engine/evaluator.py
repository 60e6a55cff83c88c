"""Measures a model on a data set: forward passes, detections, numbers."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detrkit.data.image_check import read_indexed
from detrkit.data.index import DatasetIndex
from detrkit.engine.amp import Precision
from detrkit.engine.distributed.group import gathered, rank, shared, world_size
from detrkit.engine.interrupt import Stop
from detrkit.engine.read_ahead import read_ahead
from detrkit.engine.runtime import PostProcessor, Runtime
from detrkit.engine.stopwatch import Stopwatch
from detrkit.errors import DataError
from detrkit.metrics import CocoEvaluator, EvaluationReport, Metrics, Predictions, Truth, evaluate
from detrkit.metrics.coco import DEFAULT_BACKEND, Backend, CollectedState, count
from detrkit.metrics.schema import SpeedJson
from detrkit.metrics.truth import GroundTruth
from detrkit.metrics.yolo_table import YoloTable, count_with_table
from detrkit.structures import Batch, ClassMap, Detections, ImageSpec

log = logging.getLogger("detrkit.evaluator")

#: Called after each batch with (batches done, batches).
Progress = Callable[[int, int], None]


class EvalLoader(Protocol):
    """What the evaluator needs of a loader: batches in any order, each image once."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Any: ...


@dataclass
class Evaluator:
    """Evaluates models on one data set, e.g. after every epoch.

    The model is put into evaluation mode and back, and no random numbers are drawn, so that
    evaluating changes nothing in a training run. In distributed runs every process passes its
    own loader, which may be empty; the main process counts, and all get its numbers, those of
    the whole data set.

    Attributes:
        loader: validation batches, prepared as `image_spec` says.
        index: the data set's ground truth.
        image_spec: how the images became the model's input.
        postprocessor: outputs -> detections.
        device: where the model is.
        class_map: classes of the model's labels; None: the data set's.
        precision: of the forward pass. The authors evaluate in float32, also after mixed
            precision training.
        backend: what counts.
        yolo_metrics: add precision, recall, F1 and mAP to the numbers, and keep their `table`.
        keep: remember detections in `detections`.
        detections: of the last run, in the order of the batches.
        truth, predictions: likewise in columns; only in the main process, None before a run.
        table: of the last run; None without `yolo_metrics`.
        images_per_second: of the last run, reading and counting included.
    """

    loader: EvalLoader
    index: GroundTruth
    image_spec: ImageSpec
    postprocessor: PostProcessor
    device: torch.device | str = "cpu"
    class_map: ClassMap | None = None
    precision: Precision = field(default_factory=Precision)
    backend: Backend = DEFAULT_BACKEND
    yolo_metrics: bool = False
    keep: bool = False
    detections: list[Detections] = field(default_factory=list, repr=False)
    truth: Truth | None = field(default=None, repr=False)
    predictions: Predictions | None = field(default=None, repr=False)
    table: YoloTable | None = field(default=None, repr=False)
    images_per_second: float = 0.0

    def run(self, model: nn.Module, progress: Progress | None = None) -> Metrics:
        """The numbers of `model`, which must be on `device`.

        Raises:
            DataError: an image id is not in the data set, or the classes do not fit.
            Stop: `progress` raised it, in this process or in another.
        """
        counter = CocoEvaluator(self.index, self.class_map, self.backend)
        self.detections = []
        started, stopped = time.perf_counter(), False
        try:
            for found in self._detections(model, progress):
                counter.update(found)
                if self.keep:
                    self.detections += found
        except Stop:
            stopped = True
        everyone = gathered((stopped, counter.state())) or []
        metrics = shared(lambda: self._count(counter, everyone))
        if metrics is None:
            raise Stop
        self.images_per_second = metrics.images / max(time.perf_counter() - started, 1e-9)
        return metrics

    def _detections(
        self, model: nn.Module, progress: Progress | None
    ) -> Iterable[list[Detections]]:
        modes = {module: module.training for module in model.modules()}
        device = torch.device(self.device)
        class_map = self.class_map or self.index.class_map
        model.eval()
        try:
            # Not inference_mode: sizes cached by the model must stay usable for training.
            with torch.no_grad():
                batch: Batch
                for done, batch in enumerate(self.loader, start=1):
                    with self.precision.autocast(device):
                        outputs = model(batch.images.to(device, non_blocking=True))
                    yield self.postprocessor.postprocess(
                        outputs,
                        [target.orig_size for target in batch.targets],
                        self.image_spec,
                        class_map,
                        image_ids=[target.image_id for target in batch.targets],
                    )
                    if progress is not None:
                        progress(done, len(self.loader))
        finally:
            for module, training in modes.items():
                module.training = training

    def _count(
        self, counter: CocoEvaluator, everyone: Sequence[tuple[bool, CollectedState]]
    ) -> Metrics | None:
        """The numbers of all processes' detections; None when one of them was stopped."""
        if any(stopped for stopped, _ in everyone):
            return None
        counter.merge(state for _, state in everyone[1:])  # the first is its own
        self.truth, self.predictions = counter.truth, counter.predictions()
        if not self.yolo_metrics:
            return count(self.truth, self.predictions, self.backend)
        metrics, self.table = count_with_table(self.truth, self.predictions, self.backend)
        return replace(metrics, values={**metrics.values, **self.table.values})


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_runtime` found.

    Attributes:
        report: all that follows from the detections.
        detections: of every image that could be read, all scores.
        broken: files that could not be read; their boxes count as missed.
        images_per_second: reading included, counting not.
        speed: of preprocessing, model and postprocessing; None without images.
    """

    report: EvaluationReport
    detections: list[Detections]
    broken: list[str]
    images_per_second: float
    speed: SpeedJson | None

    @property
    def metrics(self) -> Metrics:
        """COCO's numbers."""
        return self.report.metrics


def evaluate_runtime(
    runtime: Runtime,
    index: DatasetIndex,
    *,
    batch: int = 8,
    backend: Backend = DEFAULT_BACKEND,
    progress: Progress | None = None,
) -> Evaluation:
    """Measures a runtime of any kind on the images of a data set.

    Several processes take turns batch by batch, and all get the result.

    Args:
        runtime: takes pictures and answers in their pixels.
        index: the data set; its classes are the runtime's, by name and order.
        batch: images per forward pass.
        backend: what counts.
        progress: called after each batch.
    """
    counter = CocoEvaluator(index, runtime.class_map, backend)
    found: list[Detections] = []
    broken: list[str] = []
    chunks = [range(len(index))[i : i + batch] for i in range(0, len(index), batch)]
    chunks = chunks[rank() :: world_size()]
    started = time.perf_counter()
    runtime.watch = watch = Stopwatch(runtime.device)

    scales: dict[int, tuple[float, float]] = {}

    def load(number: int) -> Tensor:
        found = read_indexed(index, number, runtime.image_spec.in_channels)
        if found.scale != (1.0, 1.0):
            scales[number] = found.scale
        return found.image

    images = read_ahead(itertools.chain(*chunks), load, 2 * batch)
    for done, numbers in enumerate(chunks, start=1):
        chunk = list(itertools.islice(images, len(numbers)))
        readable = [(n, image) for n, image in chunk if not isinstance(image, DataError)]
        for number, image in chunk:
            if isinstance(image, DataError):
                broken.append(index.paths[number])
                counter.update([_nothing(index, number)])
                log.warning("%s; its boxes count as missed", image.message)
        answers = runtime.predict(
            [image for _, image in readable], [index.paths[n] for n, _ in readable]
        )
        if done == 1 and len(chunks) > 1:
            watch.reset()  # it warmed up
        for (number, _), answer in zip(readable, answers, strict=True):
            answer.image_id, answer.class_map = index.image_id(number), index.class_map
            if number in scales:  # the file has grown or shrunk: back to the index's pixels
                back = 1 / np.array(scales[number] * 2, np.float32)
                answer.boxes_xyxy = (answer.boxes_xyxy * back).astype(np.float32, copy=False)
                answer.orig_size = index.size(number)
        counter.update(answers)
        found += answers
        if progress is not None:
            progress(done, len(chunks))
    runtime.watch = Stopwatch()
    everyone = gathered((counter.state(), found, broken)) or []
    seconds = max(time.perf_counter() - started, 1e-9)

    def count() -> Evaluation:
        counter.merge(state for state, _, _ in everyone[1:])
        return Evaluation(
            evaluate(counter.truth, counter.predictions(), backend),
            _in_order(index, [detections for _, part, _ in everyone for detections in part]),
            sorted(path for _, _, part in everyone for path in part),
            len(index) / seconds,
            watch.speed(batch),
        )

    return shared(count)


def _in_order(index: DatasetIndex, detections: list[Detections]) -> list[Detections]:
    """Detections in the order of the data set's images."""
    position = {image_id: number for number, image_id in enumerate(index.image_ids)}
    return sorted(detections, key=lambda found: position[found.image_id])


def _nothing(index: DatasetIndex, number: int) -> Detections:
    return Detections(
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.int64),
        index.class_map,
        image_id=index.image_id(number),
    )
