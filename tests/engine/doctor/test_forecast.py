"""What measured numbers mean, and that they are measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detrkit.data.caching import Room
from detrkit.engine.batch_size import BatchChoice
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.derive import TrainFlags, load_with_flags
from detrkit.engine.doctor import forecast as measuring
from detrkit.engine.doctor.forecast import (
    DoesNotFit,
    Forecast,
    checkpoint_sizes,
    loader_rate,
    mean_step,
    measure_run,
)
from detrkit.engine.doctor.forecast_checks import (
    batch_check,
    cache_check,
    disk_check,
    initial_share,
    loader_check,
    memory_check,
    plan_checks,
    shared_memory_check,
    step_check,
    time_check,
)
from detrkit.engine.doctor.report import Check, Status
from detrkit.engine.machine import Machine
from detrkit.engine.plan import EMAPlan, Plan
from detrkit.engine.session import Session, open_session
from detrkit.engine.step_probe import (
    StepCost,
    StepProbe,
    joined_images,
    largest_size,
    multi_scale_sizes,
    training_boxes,
    worst_batch,
)
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_coco, write_config
from tests.engine.toy import tree

GIB = 1 << 30
GOOD = Forecast(
    batch=8, measured=8, size=(640, 640), largest=(800, 800), boxes=12,
    batch_bytes=8 * 800 * 800 * 3, step_seconds=1.0,
    largest_seconds=1.5, mean_seconds=1.25, memory=4 * GIB, memory_limit=16 * GIB, fitting=28,
    loader_rate=100.0, workers=2, eval_seconds=30.0, epochs=10, steps=100,
    checkpoint_bytes=100 << 20, weights_bytes=20 << 20, spread=1.1, cores=4, on_cpu=False,
)  # fmt: skip


def session_at(place: Path, *update: str, **flags: object) -> Session:
    values = {"data": str(place / "data"), **flags}
    return open_session(load_with_flags(place / "tiny.yml", TrainFlags(**values), update=update))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forecast")
    write_coco(folder / "data", train=9, val=4)
    write_config(folder, REPOSITORY)
    return folder


@pytest.fixture(scope="module")
def probe(place: Path) -> StepProbe:
    return StepProbe(session_at(place))


# -- batches and steps -----------------------------------------------------------------------


def test_the_worst_batch_has_the_fullest_images(place: Path) -> None:
    session = session_at(place)
    index = session.train.dataset.index
    boxes = sorted(training_boxes(index).tolist(), reverse=True)
    batch = worst_batch(session, 3, (96, 64))
    assert batch.images.shape == (3, 3, 96, 64)
    assert sorted((len(t) for t in batch.targets), reverse=True) == boxes[:3]
    assert len(worst_batch(session, 40, (64, 64))) == 40


def test_mosaic_and_mixup_join_boxes(place: Path) -> None:
    session = session_at(place)
    assert joined_images(session) == 1
    stage = replace(session.plan.stages[0], mosaic=0.5, mixup=0.3)
    session.plan = replace(session.plan, stages=(stage,))
    assert joined_images(session) == 8
    boxes = sorted(training_boxes(session.train.dataset.index).tolist(), reverse=True)
    batch = worst_batch(session, 2, (64, 64))
    assert len(batch.targets[0]) == sum(boxes[:8])
    for target in batch.targets:
        assert ((target.boxes_cxcywh >= 0) & (target.boxes_cxcywh <= 1)).all()


def test_the_largest_size(place: Path) -> None:
    assert largest_size(session_at(place)) == (64, 64)
    scales = "train_dataloader.collate_fn.base_size_repeat=2"
    session = session_at(place, scales, size="128")
    assert largest_size(session) == (160, 160)
    assert multi_scale_sizes(session).count((128, 128)) == 2


def test_a_step_costs_time_and_memory_and_writes_nothing(probe: StepProbe, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in probe.trainer.model.named_parameters()}
    cost = probe.measure(2, (64, 64), steps=1)
    assert cost.seconds > 0
    assert cost.memory is None or cost.memory > 50 << 20
    assert cost.boxes >= 1
    assert any(not torch.equal(before[n], p) for n, p in probe.trainer.model.named_parameters())
    probe.release()
    assert all(p.grad is None for p in probe.trainer.model.parameters())


def test_the_whole_run(place: Path, probe: StepProbe) -> None:
    session = session_at(place)
    found = measure_run(session, probe, Machine(cores=2), seconds=20, loader_seconds=0.2)
    assert found.batch == found.measured == 2
    assert found.epochs == 4
    assert found.steps == 4
    assert found.mean_seconds > 0
    assert found.eval_seconds > 0
    assert found.loader_rate > 0
    assert found.run_seconds == pytest.approx(4 * found.epoch_seconds)
    json.dumps(measured_values(found))


def measured_values(found: Forecast) -> list[dict]:
    checks = [
        step_check(found),
        memory_check(found),
        loader_check(found, lambda _: []),
        time_check(found),
    ]
    return [check.to_dict() for check in checks]


def test_sizes_are_those_of_the_files(probe: StepProbe, tmp_path: Path) -> None:
    probe.measure(1, (64, 64), steps=1, warm_up=0)
    whole, weights = checkpoint_sizes(probe)
    snapshot = probe.trainer.snapshot()
    snapshot.save(tmp_path / "last.pth")
    snapshot.stripped().save(tmp_path / "best.pth")
    # names and the zip's directory come on top: some hundred bytes for each tensor
    assert whole < (tmp_path / "last.pth").stat().st_size < 1.15 * whole + (1 << 20)
    assert weights < (tmp_path / "best.pth").stat().st_size < 1.15 * weights + (1 << 20)
    assert Checkpoint.load(tmp_path / "last.pth").can_resume


def test_workers_are_measured_too(place: Path) -> None:
    session = session_at(place, workers=1)
    assert session.train.num_workers == 1
    assert loader_rate(session, 0.2) > 0


def test_the_mean_step_follows_the_sizes_that_are_drawn(place: Path) -> None:
    one_size = session_at(place)
    assert mean_step(one_size, 1.0, 1.0) == pytest.approx(1.0)
    scales = "train_dataloader.collate_fn.base_size_repeat=1"
    session = session_at(place, scales, size="128", epochs=10)
    stop = session.config.get("train_dataloader.collate_fn.stop_epoch")
    sides = [96, 128, 160]
    drawn = sum(1.0 + (side**2 - 128**2) / (160**2 - 128**2) * 1.0 for side in sides) / 3
    expected = (stop * drawn + (10 - stop) * 1.0) / 10
    assert mean_step(session, 1.0, 2.0) == pytest.approx(expected)


def test_nothing_fits(place: Path, probe: StepProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object, **__: object) -> StepCost:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(StepProbe, "measure", short)
    with pytest.raises(DoesNotFit, match="batch of 2 images of 64x64 does not fit") as error:
        measure_run(session_at(place), probe, Machine())
    assert "--batch auto" in (error.value.hint or "")


def test_a_cpu_measures_small_batches_and_calculates_the_rest(
    place: Path, probe: StepProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def step(self: StepProbe, count: int, size: tuple, **_: object) -> StepCost:
        tried.append(count)
        return StepCost(count, size, 0.1 * count, GIB + count * (GIB // 4), 3)

    monkeypatch.setattr(StepProbe, "measure", step)
    monkeypatch.setattr(measuring, "memory_limit", lambda _: 4 * GIB)
    monkeypatch.setattr(measuring, "loader_rate", lambda *_: 50.0)
    monkeypatch.setattr(measuring, "validation_seconds", lambda *_: 1.0)
    found = measure_run(session_at(place, batch=30), probe, Machine())
    assert tried == [1, 2, 4, 8]  # 16 would take 5 of 4 GiB
    assert found.measured == 8
    assert found.largest_seconds == pytest.approx(3.0)
    assert found.memory == pytest.approx(GIB + 30 * GIB / 4)
    assert found.fitting == 10
    check = memory_check(found)
    assert check.status is Status.PROBLEM
    assert check.hint == "--batch 10 fits"
    assert "measured with 8 images, the rest is calculated" in step_check(found).text


# -- who waits for whom ----------------------------------------------------------------------


def test_rates() -> None:
    assert GOOD.model_rate == pytest.approx(6.4)
    assert GOOD.rate == pytest.approx(6.4)  # a GPU that never waits
    slow = replace(GOOD, loader_rate=3.2)
    assert slow.rate == pytest.approx(3.2)
    alone = replace(GOOD, loader_rate=6.4, workers=0)
    assert alone.rate == pytest.approx(3.2)  # one after the other
    shared = replace(GOOD, loader_rate=6.4, on_cpu=True, cores=4, workers=2)
    assert shared.rate == pytest.approx(6.4 / 1.5)  # two of four cores are busy loading
    assert GOOD.epoch_seconds == pytest.approx(100 * 8 / 6.4 + 30)


@pytest.mark.parametrize(
    ("changes", "lost"),
    [({}, 0.0), ({"loader_rate": 3.2}, 0.5), ({"loader_rate": 6.4, "workers": 0}, 0.5)],
)
def test_the_loader(changes: dict, lost: float) -> None:
    asked: list[float] = []

    def remedies(share: float) -> list[str]:
        asked.append(share)
        return ["--workers 4", "--cache ram"]

    check = loader_check(replace(GOOD, **changes), remedies)
    assert check.status is (Status.WARNING if lost else Status.OK)
    assert asked == ([pytest.approx(lost)] if lost else [])
    assert check.hint == ("--workers 4; or --cache ram" if lost else "")


def test_loading_or_validation_that_fails() -> None:
    failed = replace(GOOD, failures={"loader": "Bus error", "validation": "no such image"})
    loader = loader_check(failed, lambda _: [])
    assert loader.status is Status.PROBLEM
    assert "Bus error" in loader.text
    assert time_check(failed).status is Status.PROBLEM


def test_a_cache_that_does_not_fit() -> None:
    assert cache_check("ram", 3 * GIB, Room(8 * GIB, 2 * GIB)).status is Status.OK
    check = cache_check("disk", 9 * GIB, Room(8 * GIB, 2 * GIB))
    assert check.status is Status.PROBLEM
    assert check.text == "decoded images take 9 GiB of 6 GiB of disk space"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, Status.OK),
        ({"memory": 15 * GIB}, Status.WARNING),
        ({"memory": 17 * GIB}, Status.PROBLEM),
        ({"memory": None}, Status.NOTE),
        ({"memory_limit": None}, Status.OK),
    ],
)
def test_memory(changes: dict, status: Status) -> None:
    check = memory_check(replace(GOOD, **changes))
    assert check.status is status
    assert check.exit_code == (1 if status is Status.PROBLEM else 0)


def test_time() -> None:
    check = time_check(GOOD)
    assert check.text == (
        "an epoch takes 3 min (2 min training, 30 s validation), the run of 10 epochs 26 min"
    )
    weeks = time_check(replace(GOOD, epochs=10_000, on_cpu=True))
    assert weeks.status is Status.WARNING
    assert "GPU" in weeks.hint


def test_unsteady_steps() -> None:
    check = step_check(replace(GOOD, spread=9.0))
    assert check.status is Status.WARNING
    assert "equal steps differ 9 times; other programs compete" in check.text
    assert step_check(GOOD).status is Status.OK
    assert step_check(GOOD, busy=True).status is Status.WARNING


def test_shared_memory() -> None:
    need = 2 * 3 * 8 * 800 * 800 * 3
    (full,) = shared_memory_check(
        GOOD, Machine(shared_memory=64 << 20, shared_memory_free=64 << 20)
    )
    assert full.status is Status.PROBLEM
    assert full.values["need"] == need
    (fits,) = shared_memory_check(GOOD, Machine(shared_memory=GIB, shared_memory_free=GIB))
    assert fits.status is Status.OK
    assert not list(shared_memory_check(replace(GOOD, workers=0), Machine(shared_memory_free=1)))
    assert not list(shared_memory_check(GOOD, Machine()))


def test_disk() -> None:
    plan = Plan.from_tree(tree(epochs=10, stop=8), 100)
    folder = Path("here")
    check = disk_check(GOOD, plan, every=4, folder=folder, free=10 * GIB)
    # last, best_stg1, two numbered, and one while it is written; and best
    assert check.values["need"] == 5 * (100 << 20) + (20 << 20)
    assert check.status is Status.OK
    assert disk_check(GOOD, plan, 0, folder, 10 * GIB).values["need"] == 3 * (100 << 20) + (
        20 << 20
    )
    assert disk_check(GOOD, plan, 1, folder, 500 << 20).status is Status.PROBLEM
    assert disk_check(GOOD, plan, 4, folder, 600 << 20).status is Status.WARNING


# -- the plan --------------------------------------------------------------------------------


def plan_of(batches: int, warmup: int = 7, **more: object) -> Plan:
    values = {"lr_warmup_scheduler": {"type": "LinearWarmup", "warmup_duration": warmup}, **more}
    return Plan.from_tree(tree(epochs=4, stop=3, **values), batches)


def codes(checks: Iterator[Check]) -> dict[str, Check]:
    return {check.code: check for check in checks}


def test_a_plan_that_fits() -> None:
    found = codes(plan_checks(plan_of(100)))
    assert set(found) == {"plan"}
    assert found["plan"].text == "4 epochs of 100 batches, 400 steps"
    assert len(found["plan"].details) == 2
    assert not any("learning rate" in line for line in found["plan"].details)


def test_a_recipe_for_much_more_data() -> None:
    slow = {"ema": {"decay": 0.9999, "warmups": 0}}
    found = codes(plan_checks(plan_of(1, warmup=500, **slow)))
    assert found["plan"].status is Status.NOTE
    assert "never reaches its value" in found["plan.warmup"].text
    assert "--epochs 4" in found["plan.warmup"].hint
    assert found["plan.average"].values["share"] == pytest.approx(0.9999**4)


@pytest.mark.parametrize(
    ("ema", "steps", "share"),
    [
        (EMAPlan(0.5, warmups=0), 3, 0.125),
        (EMAPlan(0.5, warmups=0, start=2), 3, 0.5),
        (EMAPlan(0.9999, warmups=1000), 100_000, 0.0),
        (EMAPlan(0.0, warmups=0), 1, 0.0),
    ],
)
def test_what_is_left_of_the_initial_weights(ema: EMAPlan, steps: int, share: float) -> None:
    assert initial_share(ema, steps) == pytest.approx(share, abs=1e-8)


def test_the_batch_and_its_rates() -> None:
    trials = (StepCost(8, (64, 64), 1.0, GIB, 3), StepCost(4, (64, 64), 0.6, GIB // 2, 3))
    choice = BatchChoice(8, "16 do not fit", trials, (16,), (64, 64), 0.5)
    check = batch_check(choice, own=32)
    assert "8 (16 do not fit); learning rates x 0.5, as the batch: 8 / 32" in check.text
    assert [line.split(":")[0] for line in check.details] == ["4", "8", "16"]
    assert "rates" not in batch_check(replace(choice, batch=32), 32).text
