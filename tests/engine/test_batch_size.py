"""The search for a batch, on made-up devices; the real probe on a tiny model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detrkit.engine.batch_size import (
    SPARE,
    BatchChoice,
    choose_batch,
    climb,
    fastest,
    fitting_batch,
    largest_fitting,
    predicted,
)
from detrkit.engine.derive import TrainFlags, load_with_flags, parse_batch, rate_factor
from detrkit.engine.memory import is_out_of_memory
from detrkit.engine.session import open_session
from detrkit.engine.step_probe import StepCost, StepProbe, attempt
from detrkit.errors import DetrkitError, UsageError
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_coco, write_config

GIB = 1 << 30
SIZE = (64, 64)


class Device:
    """A device on which a step takes `fixed + batch * each` bytes and raises beyond `memory`."""

    def __init__(self, memory: int, each: int, fixed: int = 0, speed: float = 1.0) -> None:
        self.memory, self.each, self.fixed, self.speed = memory, each, fixed, speed
        self.tried: list[int] = []
        self.released = 0

    def step(self, batch: int) -> StepCost:
        self.tried.append(batch)
        need = self.fixed + batch * self.each
        if need > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return StepCost(batch, SIZE, batch / self.speed, need, 3)

    def release(self) -> None:
        self.released += 1

    def measure(self, batch: int) -> StepCost | None:
        return attempt(lambda: self.step(batch), self.release)


@given(
    memory=st.integers(1, 4000), each=st.integers(1, 60), fixed=st.integers(0, 500),
    most=st.integers(1, 300), first=st.integers(1, 64),
)  # fmt: skip
def test_the_largest_that_leaves_a_tenth(
    memory: int, each: int, fixed: int, most: int, first: int
) -> None:
    device = Device(memory, each, fixed)
    truth = max(
        (b for b in range(1, most + 1) if fixed + b * each <= (1 - SPARE) * memory), default=0
    )
    if not truth:
        with pytest.raises(DetrkitError, match="not even a batch of one image"):
            largest_fitting(device.measure, most, limit=memory, first=min(first, most))
        return
    choice = largest_fitting(device.measure, most, limit=memory, first=min(first, most))
    assert choice.batch <= truth
    # past 8 only multiples of 2 are tried, past 16 of 4, …: an eighth at most is left
    assert choice.batch >= truth - max(truth // 8, 0)
    assert choice.batch in device.tried
    assert max(device.tried) <= most
    assert device.released == len(device.tried)
    assert len(device.tried) <= 24
    assert [c.batch for c in choice.trials] + list(choice.too_large) != []


def test_the_search_doubles_and_bisects() -> None:
    device = Device(memory=100, each=2)
    choice = largest_fitting(device.measure, 256, limit=100, first=8)
    assert device.tried == [8, 16, 32, 64, 48, 40, 44]
    assert choice.batch == 44
    assert choice.too_large == (64, 48)
    assert choice.reason == "48 do not fit with a tenth spare"


def test_no_further_than_asked() -> None:
    device = Device(memory=10**9, each=1)
    assert largest_fitting(device.measure, 100, limit=10**9, first=8).batch == 100
    assert max(device.tried) == 100


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:75] … can't allocate memory"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected

    def fail() -> StepCost:
        raise error

    released: list[int] = []
    if expected:
        assert attempt(fail, lambda: released.append(1)) is None
        assert released
    else:
        with pytest.raises(type(error)):
            attempt(fail, lambda: None)


def test_what_a_failed_step_held_is_free_before_the_next() -> None:
    """The error's frames must be gone when memory is given back."""
    import weakref

    held: list[weakref.ref[torch.Tensor]] = []

    def fail() -> StepCost:
        tensor = torch.zeros(4)
        held.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory")

    alive: list[bool] = []
    attempt(fail, lambda: alive.append(held[0]() is not None))
    assert alive == [False]


def rates(table: dict[int, float], memory: Callable[[int], int] = lambda b: b) -> Callable:
    """A CPU that trains so many images/s at each batch."""
    tried: list[int] = []

    def measure(batch: int) -> StepCost:
        tried.append(batch)
        return StepCost(batch, SIZE, batch / table[batch], memory(batch), 1)

    measure.tried = tried  # type: ignore[attr-defined]
    return measure


def test_the_fastest_on_a_cpu_and_the_largest_of_equals() -> None:
    choice = fastest(rates({1: 5, 2: 8, 4: 10, 8: 9.9, 16: 7}), 16, limit=None, seconds=1e6)
    assert choice.batch == 8
    assert "9.9 images/s; 16 give 7" in choice.reason


def test_the_recipes_own_where_speed_is_equal() -> None:
    choice = fastest(rates({1: 10, 2: 10, 4: 10, 6: 10}), 6, limit=None, seconds=1e6)
    assert choice.batch == 6
    assert choice.reason == "10 images/s, the most that is tried"


def test_memory_ends_the_climb() -> None:
    measure = rates({b: 1000.0 for b in (1, 2, 4, 8, 16)}, memory=lambda b: 10 + 10 * b)
    costs = climb(measure, 16, limit=99, seconds=1e6)
    assert [cost.batch for cost in costs] == [1, 2, 4]  # 8 would take 90 of 99
    choice = fastest(measure, 16, limit=99, seconds=1e6)
    assert choice.batch == 4
    assert "more would not fit" in choice.reason


def test_time_ends_the_climb(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("detrkit.engine.batch_size.time.perf_counter", lambda: clock[0])

    def measure(batch: int) -> StepCost:
        clock[0] += 3.0 * batch  # warm-up and timed steps
        return StepCost(batch, SIZE, 1.0 * batch, None, 1)

    costs = climb(measure, 64, limit=None, seconds=30)
    assert [cost.batch for cost in costs] == [1, 2, 4]  # 21 s; a batch of 8 would take 24 more


def test_the_line_through_two_costs() -> None:
    costs = [StepCost(2, SIZE, 1.0, 300, 1), StepCost(4, SIZE, 1.6, 500, 1)]
    assert predicted(costs, 8) == (pytest.approx(2.8), pytest.approx(900))
    assert predicted(costs[:1], 4) == (2.0, 300)
    noisy = [StepCost(1, SIZE, 1.0, None, 1), StepCost(2, SIZE, 9.0, None, 1)]
    assert predicted(noisy, 8) == (36.0, None)
    assert fitting_batch(costs, 1000) == 8
    assert fitting_batch(costs, None) is None
    assert fitting_batch(costs, 100) is None


@pytest.mark.parametrize(("text", "expected"), [(None, None), ("auto", "auto"), ("16", 16)])
def test_parse_batch(text: str | None, expected: object) -> None:
    assert parse_batch(text) == expected


def test_parse_batch_refuses_words() -> None:
    with pytest.raises(UsageError, match="expected a number or auto"):
        parse_batch("many")


def test_rates_follow_the_root_for_adam_and_the_ratio_for_sgd() -> None:
    cfg = load_with_flags("dfine_n_custom", TrainFlags())
    own = cfg.get("train_dataloader.total_batch_size")
    assert rate_factor(cfg, own * 4) == 2.0
    assert rate_factor(cfg, own * 4, linear=True) == 4.0
    assert rate_factor(cfg.with_values({"optimizer.type": "SGD"}), own * 4) == 4.0


def test_several_processes_are_told_to_ask_doctor() -> None:
    cfg = load_with_flags("dfine_n_custom", TrainFlags())
    with pytest.raises(UsageError, match="the run has 4 processes") as error:
        choose_batch(cfg, 4)
    assert "give 4 times as much" in (error.value.hint or "")


def test_the_real_probe_on_a_cpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_coco(tmp_path / "data", train=6, val=2)
    config = write_config(tmp_path, REPOSITORY)
    cfg = load_with_flags(config, TrainFlags(data=str(tmp_path / "data")))
    with caplog.at_level(logging.INFO, logger="detrkit"):
        choice = choose_batch(cfg)
    assert isinstance(choice, BatchChoice)
    assert 1 <= choice.batch <= 2  # tiny.yml says 2
    assert [cost.batch for cost in choice.trials] == [1, 2]
    assert all(cost.seconds > 0 and cost.memory for cost in choice.trials)
    assert choice.rate_factor == pytest.approx((choice.batch / 2) ** 0.5)
    assert "trying a batch of 2" in caplog.text


@pytest.mark.gpu
def test_the_real_search_on_a_gpu(tmp_path: Path) -> None:
    """With a share of the GPU's memory: the batch fits, and one of twice its size does not."""
    write_coco(tmp_path / "data", train=64, val=2)
    cfg = load_with_flags(
        write_config(tmp_path, REPOSITORY),
        TrainFlags(data=str(tmp_path / "data"), device="cuda", size="256"),
    ).with_values({"train_dataloader.total_batch_size": 4})
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min((2 << 30) / total, 1.0))
    try:
        session = open_session(cfg)
        probe = StepProbe(session)
        choice = largest_fitting(
            lambda batch: attempt(lambda: probe.measure(batch, (256, 256)), probe.release),
            4096,
            limit=2 << 30,
        )
        assert 1 <= choice.batch < 4096
        assert choice.too_large
        cost = probe.measure(choice.batch, (256, 256))
        assert (cost.memory or 0) <= 0.95 * (2 << 30)
        assert attempt(lambda: probe.measure(8 * choice.batch, (256, 256)), probe.release) is None
        assert probe.measure(1, (256, 256)).seconds > 0  # a failed step leaves nothing behind
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
