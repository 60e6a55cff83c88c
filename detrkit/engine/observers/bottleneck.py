"""Says once when the training waits for its data, and what would help on this machine."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from detrkit.data.caching import Room, largest_side, picture_bytes, pixel_bytes
from detrkit.data.dataset import DetectionDataset
from detrkit.data.sample import SampleKey
from detrkit.engine.observers.base import EpochReport, Observer, StepReport
from detrkit.words import amount

log = logging.getLogger("detrkit")

#: A share of the training time spent waiting above this is worth a line.
THRESHOLD = 0.2
#: Seconds and batches that are watched before anything is said.
ENOUGH = (10.0, 8)
#: Decoding below this share of a sample's time is not worth a cache.
WORTH_CACHING = 0.25


@dataclass(frozen=True)
class LoaderFacts:
    """What advice depends on.

    Attributes:
        workers: loader processes.
        cores: that this process and its workers may use.
        busy: of them, kept busy by the training itself: 1 where a GPU computes.
        input_side: longer side of the model's input in pixels.
        cached: whether images are decoded already.
        memory, disk: measure the room for a cache.
        dataset: what is loaded.
    """

    workers: int
    cores: int
    busy: int
    input_side: int
    cached: bool
    memory: Callable[[], Room]
    disk: Callable[[], Room]
    dataset: DetectionDataset


class Bottleneck(Observer):
    """Watches the waits of a run.

    The first batches of the run, for which the workers have to start, do not count.
    """

    def __init__(self, facts: LoaderFacts) -> None:
        self.facts = facts
        self.said = False
        self._left_out = 1 + 2 * facts.workers
        self._seconds = self._waited = 0.0
        self._batches = 0

    def step(self, report: StepReport) -> None:
        """Adds up."""
        if self.said or report.phase != "train":
            return
        if self._left_out:
            self._left_out -= 1
            return
        self._batches += 1
        self._seconds += report.seconds
        self._waited += report.wait_seconds
        if self._seconds >= 6 * ENOUGH[0]:  # long epochs need not end first
            self._judge()

    def epoch(self, report: EpochReport) -> None:
        """Judges what has been added up."""
        if not self.said:
            self._judge()

    def _judge(self) -> None:
        if self._seconds < ENOUGH[0] or self._batches < ENOUGH[1]:
            return
        share = self._waited / self._seconds
        self._seconds, self._waited, self._batches = 0.0, 0.0, 0
        if share > THRESHOLD:
            self.said = True
            try:
                log.warning("%s", advice(self.facts, share))
            except Exception as error:  # advice is not worth a training run
                log.warning("the training waited for data %.0f %% of the time", share * 100)
                log.debug("no advice: %s", error)


def advice(facts: LoaderFacts, share: float) -> str:
    """One line: what the bottleneck is and what to change, from what this machine has.

    Args:
        facts: of the loader and the machine.
        share: of the time, 0 to 1, that the training waits.
    """
    who = f"{facts.workers} workers" if facts.workers != 1 else "1 worker"
    line = (
        f"the data loader is the bottleneck: the training waited for it {share:.0%} of the time "
        f"({who if facts.workers else 'no workers'}, {facts.cores} cores)"
    )
    return f"{line}. Faster with {'; or '.join(remedies(facts, share))}"


def remedies(facts: LoaderFacts, share: float) -> list[str]:
    """What would shorten the waits, the best first; see `advice`."""
    found = [*_more_workers(facts, share), *_cache(facts)]
    return found or ["a machine with more cores, or fewer augmentations"]


def _more_workers(facts: LoaderFacts, share: float) -> list[str]:
    """As many as would end the waits, if there are cores for them."""
    most = facts.cores - facts.busy
    if facts.workers >= most:
        return []
    wanted = math.ceil(max(facts.workers, 1) / max(1 - share, 0.1))
    return [f"--workers {min(max(wanted, facts.workers + 1), most)}"]


def _cache(facts: LoaderFacts) -> list[str]:
    dataset, sizes = facts.dataset, facts.dataset.index.sizes
    shrinks = int(np.median(sizes.max(1))) > 2 * facts.input_side and dataset.max_side is None
    if facts.cached:
        return [f"--cache-size {2 * facts.input_side}"] if shrinks else []
    decoding = decoding_share(dataset)
    if decoding < WORTH_CACHING:
        return []
    why = f"decoding images is {decoding:.0%} of the work"
    pixel, memory = pixel_bytes(dataset), facts.memory()
    needed = picture_bytes(sizes, None, pixel)
    if needed <= memory.usable:
        return [f"--cache ram ({why}; {amount(needed)} of {amount(memory.free)} free memory)"]
    disk = facts.disk()
    if needed <= disk.usable:
        return [
            f"--cache disk, if it is fast ({why}; {amount(needed)} of {amount(disk.free)} free)"
        ]
    side = largest_side(sizes, memory.usable, pixel)
    if side is None or side < facts.input_side:
        return []
    return [f"--cache ram --cache-size {side} ({why}; all images need {amount(needed)})"]


def decoding_share(dataset: DetectionDataset, count: int = 8) -> float:
    """The share of a sample's time, 0 to 1, that decoding takes, measured on a few images."""
    numbers = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    decoding, all_of_it = [], []
    for number in numbers.tolist():
        key = SampleKey(dataset.epoch, 0, number)
        started = time.perf_counter()
        dataset.load(key, np.random.default_rng(0))
        decoded = time.perf_counter()
        dataset[key]
        decoding.append(decoded - started)
        all_of_it.append(time.perf_counter() - decoded)
    return min(float(np.median(decoding)) / max(float(np.median(all_of_it)), 1e-9), 1.0)
