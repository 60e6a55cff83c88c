"""Dynamic batching: who shares a pass with whom, and what happens when it fails."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from detrkit.serving.batcher import Batcher, QueueFull
from tests.serving.running import until


class Model:
    """Answers with the value of an image's first pixel; a gate holds it, 13 breaks it."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[int]] = []

    def __call__(self, images: Sequence[Tensor]) -> list[Any]:
        values = [int(image.flatten()[0]) for image in images]
        self.batches.append(values)
        self.gate.wait(30)
        if 13 in values:
            raise RuntimeError("thirteen")
        return values


def images(*values: int) -> list[Tensor]:
    return [torch.full((1, 1, 1), value) for value in values]


@pytest.fixture
def model() -> Model:
    return Model()


def test_alone_nobody_waits(model: Model) -> None:
    batcher = Batcher(model, wait=3600)  # type: ignore[arg-type]
    (found,) = batcher.submit(images(5))
    assert found.result(10) == 5
    batcher.close()


def test_those_on_their_way_are_waited_for(model: Model) -> None:
    batcher = Batcher(model, wait=3600, size=3)  # type: ignore[arg-type]
    with batcher.announced():
        first = batcher.submit(images(1))
        second = batcher.submit(images(2))
        assert model.batches == []
    assert [f.result(10) for f in first + second] == [1, 2]
    assert model.batches == [[1, 2]]
    with batcher.announced():  # a full batch does not wait
        assert [f.result(10) for f in batcher.submit(images(3, 4, 5))] == [3, 4, 5]
    batcher.close()


def test_nobody_waits_for_long(model: Model) -> None:
    batcher = Batcher(model, wait=0.01)  # type: ignore[arg-type]
    with batcher.announced():
        assert batcher.submit(images(1))[0].result(10) == 1
    batcher.close()


def test_images_gather_while_the_model_computes(model: Model) -> None:
    sizes: list[int] = []
    batcher = Batcher(model, size=4, wait=0, on_batch=lambda count, seconds: sizes.append(count))  # type: ignore[arg-type]
    model.gate.clear()
    found = batcher.submit(images(0))
    until(lambda: model.batches == [[0]])
    found += [future for value in range(1, 7) for future in batcher.submit(images(value))]
    assert batcher.waiting == 6
    model.gate.set()
    assert [f.result(10) for f in found] == list(range(7))
    batcher.close()
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert sizes == [1, 4, 2]


def test_the_queue_is_bounded_and_takes_all_or_none(model: Model) -> None:
    batcher = Batcher(model, size=1, capacity=3)  # type: ignore[arg-type]
    model.gate.clear()
    batcher.submit(images(0))
    until(lambda: batcher.waiting == 0)
    waiting = batcher.submit(images(1, 2))
    with pytest.raises(QueueFull):
        batcher.submit(images(3, 4))
    assert batcher.waiting == 2
    assert waiting[0].cancel()
    waiting += batcher.submit(images(3, 4))  # the place of the cancelled one
    model.gate.set()
    assert [f.result(10) for f in waiting[1:]] == [2, 3, 4]
    batcher.close()
    assert model.batches == [[0], [2], [3], [4]]


def test_one_image_cannot_harm_others(model: Model) -> None:
    batcher = Batcher(model, size=4)  # type: ignore[arg-type]
    found = batcher.submit(images(1, 13, 2))
    assert found[0].result(10) == 1
    assert found[2].result(10) == 2
    with pytest.raises(RuntimeError, match="thirteen"):
        found[1].result(10)
    assert batcher.submit(images(4))[0].result(10) == 4
    assert batcher.failure is None
    batcher.submit(images(13))[0].exception(10)
    assert str(batcher.failure) == "thirteen"
    batcher.close()


def test_closing_finishes_what_waits(model: Model) -> None:
    batcher = Batcher(model, size=2)  # type: ignore[arg-type]
    model.gate.clear()
    found = batcher.submit(images(*range(7)))
    closing = threading.Thread(target=batcher.close)
    closing.start()
    until(lambda: batcher._closed)
    with pytest.raises(QueueFull):
        batcher.submit(images(9))
    model.gate.set()
    closing.join(10)
    assert [f.result(0) for f in found] == list(range(7))


@pytest.mark.parametrize("workers", [1, 3])
def test_everybody_gets_their_own(model: Model, workers: int) -> None:
    batcher = Batcher(model, size=5, workers=workers, capacity=1000)  # type: ignore[arg-type]

    def ask(value: int) -> int:
        with batcher.announced():
            (found,) = batcher.submit(images(value))
        return found.result(10)  # type: ignore[return-value]

    values = [v for v in range(200) if v != 13]
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(ask, values)) == values
    batcher.close()
    assert sorted(v for batch in model.batches for v in batch) == values
    assert max(map(len, model.batches)) <= 5


def test_workers_compute_at_the_same_time(model: Model) -> None:
    batcher = Batcher(model, size=1, workers=2)  # type: ignore[arg-type]
    model.gate.clear()
    found = batcher.submit(images(1, 2))
    until(lambda: len(model.batches) == 2)  # both inside, before one of them is done
    model.gate.set()
    assert [f.result(10) for f in found] == [1, 2]
    batcher.close()
