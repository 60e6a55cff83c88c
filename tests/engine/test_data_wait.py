"""How long the training waits for its data, and what it says about that."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.data import Compose, DetectionDataset, open_dataset
from detrkit.data.caching import Room
from detrkit.engine.data_wait import DataWait
from detrkit.engine.observers import Bottleneck, LoaderFacts
from detrkit.engine.observers.bottleneck import advice, decoding_share
from tests.engine.test_observers import epoch, step
from tests.engine.tiny_data import write_coco
from tests.engine.toy import trainer


def test_waits_of_a_loop_on_a_cpu() -> None:
    def batches() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.05)
            yield number

    waits = DataWait(torch.device("cpu"))
    taken = []
    for number in waits.over(batches()):
        time.sleep(0.02)  # work
        taken.append((number, waits.take()))
    assert [number for number, _ in taken] == [0, 1, 2]
    assert all(0.05 <= seconds < 0.5 for _, seconds in taken)
    assert waits.take() == 0


class Event:
    """A CUDA event on a clock of its own."""

    now = 0.0
    busy_until = 0.0

    def __init__(self, **_: Any) -> None:
        self.at = 0.0

    def record(self, stream: object) -> None:
        self.at = max(Event.now, Event.busy_until)

    def query(self) -> bool:
        return Event.now >= self.at

    def elapsed_time(self, other: Event) -> float:
        return (other.at - self.at) * 1000


def test_a_gpu_that_still_works_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop asks for a batch while the GPU has work: only the rest of the wait counts."""
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    Event.now = Event.busy_until = 0.0
    loading = iter([1.0, 2.0, 7.0])

    def batches() -> Iterator[int]:
        for seconds in loading:
            Event.now += seconds
            yield 0

    waits, taken = DataWait(torch.device("cuda")), []
    for _ in waits.over(batches()):
        Event.busy_until = max(Event.now, Event.busy_until) + 3.0  # queued, not waited for
        taken.append(waits.take())
    Event.now = Event.busy_until
    taken.append(waits.take())
    # 1 s until the first batch; the second came while the GPU worked, which is known only
    # later; the third came 6 s after the second, of which the GPU worked 4
    assert taken == pytest.approx([1.0, 0.0, 3.0, 0.0])


def test_a_run_records_its_waits(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    load = type(run.loader).__iter__

    class Slow(type(run.loader)):  # type: ignore[misc]
        def __iter__(self) -> Iterator[Any]:
            for batch in load(self):
                time.sleep(0.03)
                yield batch

    run.loader.__class__ = Slow
    run.fit()
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert (
            0.03 * len(run.loader)
            <= row["resources/wait_seconds"]
            <= row["resources/train_seconds"]
        )


# Advice ----------------------------------------------------------------------------------------


@pytest.fixture
def facts(tmp_path: Path) -> LoaderFacts:
    """Enough of everything; images that take long to decode beside what follows."""
    index = open_dataset(write_coco(tmp_path / "data", size=(300, 400)), "train")
    data = DetectionDataset(index, Compose([]))
    return LoaderFacts(
        workers=2,
        cores=8,
        busy=1,
        input_side=640,
        cached=False,
        memory=lambda: Room(16 << 30, 2 << 30),
        disk=lambda: Room(100 << 30),
        dataset=data,
    )


def large(facts: LoaderFacts, side: int = 11584) -> LoaderFacts:
    """As if the images were large."""
    facts.dataset.index.sizes[:] = side
    return facts


def test_advice_follows_from_the_machine(
    facts: LoaderFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detrkit.engine.observers.bottleneck.decoding_share", lambda dataset: 0.6)
    text = advice(facts, 0.5)
    assert "waited for it 50% of the time (2 workers, 8 cores)" in text
    assert "--workers 4; or --cache ram (decoding images is" in text
    assert "of 16 GiB free memory" in text
    assert "--workers 7;" in advice(facts, 0.9)
    assert "(no workers, 8 cores). Faster with --workers 2;" in advice(
        replace(facts, workers=0), 0.3
    )
    # all cores are taken, by workers or by training on the CPU
    for full in ({"workers": 7}, {"busy": 8}):
        assert "--workers" not in advice(replace(facts, **full), 0.5)


def test_the_cache_that_fits_is_named(facts: LoaderFacts) -> None:
    large(facts)  # 8 of them: 3 GiB
    assert "--cache ram (" in advice(facts, 0.5)
    little = replace(facts, memory=lambda: Room(4 << 30, 2 << 30))
    assert "--cache disk, if it is fast (" in advice(little, 0.5)
    assert "3 GiB of 100 GiB free" in advice(little, 0.5)
    nothing = replace(little, disk=lambda: Room(1 << 30))
    assert "--cache ram --cache-size 9440 (" in advice(nothing, 0.5)
    assert "--cache" not in advice(replace(nothing, memory=lambda: Room(0)), 0.5)


def test_with_a_cache_only_smaller_images_help(facts: LoaderFacts) -> None:
    cached = replace(facts, cached=True)
    assert "--cache" not in advice(cached, 0.5)
    assert "--cache-size 1280" in advice(large(cached), 0.5)
    cached.dataset.max_side = 1280
    assert "--cache" not in advice(cached, 0.5)
    assert "more cores, or fewer augmentations" in advice(replace(cached, workers=7), 0.5)


def test_a_cache_is_not_advised_where_decoding_is_not_the_work(
    facts: LoaderFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(sample: Any, rng: Any) -> Any:
        time.sleep(0.1)  # far longer than decoding, also on a busy machine
        return sample

    load = facts.dataset.load
    with monkeypatch.context() as patch:
        patch.setattr(facts.dataset, "load", lambda key, rng: slow(load(key, rng), rng))
        assert decoding_share(facts.dataset) > 0.5
    facts.dataset.transforms = slow
    assert decoding_share(facts.dataset) < 0.25
    assert "--cache" not in advice(facts, 0.5)


def watched(facts: LoaderFacts, seconds: float, share: float, count: int = 20) -> Bottleneck:
    observer = Bottleneck(facts)
    for number in range(count):
        # the first ones, for which workers start, are always late
        wait = seconds * share if number > 4 else 100.0
        observer.step(step(number, seconds=max(seconds, wait), wait_seconds=wait))
        observer.step(step(number, phase="val", seconds=50.0, wait_seconds=50.0))
    return observer


def test_it_is_said_once(facts: LoaderFacts, caplog: pytest.LogCaptureFixture) -> None:
    observer = watched(facts, 1.0, 0.3)
    assert not caplog.text
    observer.epoch(epoch(0))
    assert "the data loader is the bottleneck" in caplog.text
    for number in range(1, 4):
        for batch in range(20):
            observer.step(step(batch, epoch=number, seconds=1.0, wait_seconds=0.9))
        observer.epoch(epoch(number))
    assert caplog.text.count("bottleneck:") == 1
    caplog.clear()
    watched(facts, 10.0, 0.3)  # a long epoch need not end
    assert caplog.text.count("bottleneck:") == 1


@pytest.mark.parametrize(
    ("seconds", "share", "count"), [(1.0, 0.15, 20), (0.01, 0.9, 20), (2, 0.9, 10)]
)
def test_little_or_too_short_waits_are_not_worth_a_line(
    facts: LoaderFacts,
    seconds: float,
    share: float,
    count: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched(facts, seconds, share, count).epoch(epoch(0))
    assert not caplog.text


def test_advice_that_fails_does_not_stop_the_run(
    facts: LoaderFacts, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Room:
        raise OSError("no such machine")

    with caplog.at_level(logging.WARNING):
        watched(replace(facts, memory=broken), 1.0, 0.5).epoch(epoch(0))
    assert "waited for data 50 % of the time" in caplog.text
