from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.data import BatchImageCollateFunction, Compose, DetectionDataset, build_loader
from detrkit.data.coco import read_coco
from detrkit.data.collate import generate_scales
from detrkit.data.loader import BatchSchedule, Loader
from detrkit.data.workers import WorkerLost
from detrkit.errors import ConfigError, DataError, UsageError
from detrkit.registry import MODULES
from detrkit.structures import Batch, ImageSpec
from tests.data.conftest import CocoMaker, box
from tests.data.test_dataset import break_image, images
from tests.data.test_transforms import RECIPE

COUNT = 11


@pytest.fixture
def path(make_coco: CocoMaker) -> Path:
    return make_coco([box(i + 1, image=i) for i in range(COUNT)], images(COUNT))


def make_loader(path: Path, **options: object) -> Loader:
    data = DetectionDataset(read_coco(path), Compose(RECIPE))
    collate = BatchImageCollateFunction(base_size=(48, 80), base_size_repeat=2, stop_epoch=5)
    settings = {"batch_size": 3, "shuffle": True, "seed": 4, "collate": collate} | options
    return build_loader(data, **settings)  # type: ignore[arg-type]


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.images, b.images) and all(
        x.image_id == y.image_id
        and torch.equal(x.boxes_cxcywh, y.boxes_cxcywh)
        and torch.equal(x.labels, y.labels)
        for x, y in zip(a.targets, b.targets, strict=True)
    )


# Batches ---------------------------------------------------------------------------------------


def test_images_become_floats_as_for_deployment(path: Path) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ops = [
        {"type": "Resize", "size": [32, 48]},
        {"type": "ConvertPILImage"},
        {"type": "Normalize", "mean": mean, "std": std},
    ]
    data = DetectionDataset(read_coco(path), Compose(ops))
    batch = BatchImageCollateFunction()([data[0], data[1]])
    assert batch.images.shape == (2, 3, 32, 48)
    assert batch.images.dtype == torch.float32
    spec = ImageSpec(size=(32, 48), mean=mean, std=std)
    for number, image in enumerate(batch.images):
        assert torch.equal(image, spec.normalized(data[number].image))


def test_images_of_different_size_are_refused(path: Path) -> None:
    data = DetectionDataset(read_coco(path), Compose([{"type": "RandomIoUCrop"}]), seed=1)
    with pytest.raises(ConfigError, match="differ in size") as caught:
        BatchImageCollateFunction()([data[i] for i in range(6)])
    assert "Resize" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("base", "repeat", "expected"),
    [
        (640, 3, [480, 512, 544, 576, 608, 640, 640, 640, 800, 768, 736, 704, 672]),
        (320, 1, [224, 256, 288, 320, 384, 352, 320]),
    ],
)
def test_scales_are_the_authors(base: int, repeat: int, expected: list[int]) -> None:
    assert generate_scales(base, repeat) == expected


def test_sizes_are_drawn_until_multi_scale_stops() -> None:
    collate = BatchImageCollateFunction(stop_epoch=3, base_size=640, base_size_repeat=3, seed=1)
    drawn = [collate.size_at(epoch, step) for epoch in range(3) for step in range(300)]
    assert {s[0] for s in drawn if s} == set(generate_scales(640, 3))
    assert 0.15 < np.mean([s == (640, 640) for s in drawn]) < 0.32  # 3 of 13
    assert collate.size_at(3, 0) is None
    assert collate.size_at(0, 5) == collate.size_at(0, 5)
    assert BatchImageCollateFunction().size_at(0, 0) is None


def test_sizes_of_oblong_pictures_are_multiples_of_32() -> None:
    collate = BatchImageCollateFunction(base_size=[384, 640], base_size_repeat=2)
    assert (384, 640) in collate.scales
    assert all(h % 32 == 0 and w % 32 == 0 and h < w for h, w in collate.scales)


def test_resizing_equals_torch_s_nearest(path: Path) -> None:
    data = DetectionDataset(read_coco(path), Compose(RECIPE))
    collate = BatchImageCollateFunction(base_size=(48, 80), base_size_repeat=1)
    step = next(s for s in range(100) if collate.size_at(0, s) not in (None, (48, 80)))
    data.epoch = 0
    samples = [data[i] for i in range(2)]
    for sample in samples:
        sample.key = sample.key._replace(step=step)
    size = collate.size_at(0, step)
    plain = BatchImageCollateFunction()(samples).images
    expected = torch.nn.functional.interpolate(plain, size=size)
    assert torch.equal(collate(samples).images, expected)


def test_empty_targets_batch(make_coco: CocoMaker) -> None:
    data = DetectionDataset(read_coco(make_coco([])), Compose(RECIPE))
    batch = next(iter(build_loader(data, batch_size=2, shuffle=False)))
    assert batch.targets[0].boxes_cxcywh.shape == (0, 4)


# Order -----------------------------------------------------------------------------------------

SCHEDULES = st.builds(
    dict,
    count=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 5),
    drop_last=st.booleans(),
    seed=st.integers(0, 3),
)


@settings(deadline=None)
@given(SCHEDULES, st.integers(0, 3), st.integers(1, 3))
def test_training_ranks_are_equally_long_and_complete(
    settings: dict, epoch: int, least: int
) -> None:
    world = settings["world_size"]
    ranks = [BatchSchedule(**settings, shuffle=True, rank=r, least=least) for r in range(world)]
    batches = [rank.batches(epoch) for rank in ranks]
    assert {len(b) for b in batches} == {len(ranks[0])}
    assert len(ranks[0]) >= 1
    for shares in zip(*batches, strict=True):
        sizes = [len(share) for share in shares]
        assert min(sizes) >= min(least, settings["batch_size"])
        assert max(sizes) - min(sizes) <= 1
    seen = np.concatenate([x for b in batches for x in b])
    if not settings["drop_last"]:
        assert set(seen) == set(range(settings["count"]))
    assert len(seen) - len(set(seen)) <= world * least  # little is repeated


@settings(deadline=None)
@given(SCHEDULES, st.integers(0, 3), st.booleans())
def test_a_batch_holds_the_same_images_for_every_number_of_ranks(
    settings: dict, epoch: int, shuffle: bool
) -> None:
    world = settings.pop("world_size")
    total = settings.pop("batch_size") * world
    (whole,) = (BatchSchedule(**settings, batch_size=total, shuffle=shuffle, training=True),)
    ranks = [
        BatchSchedule(
            **settings, batch_size=total // world, shuffle=shuffle, training=True,
            rank=rank, world_size=world,
        )
        for rank in range(world)
    ]  # fmt: skip
    steps = zip(*(rank.batches(epoch) for rank in ranks), strict=True)
    for numbers, shares in zip(whole.batches(epoch), steps, strict=True):
        together = np.concatenate(shares)
        if len(numbers) >= world:
            np.testing.assert_array_equal(together, numbers)
        else:
            np.testing.assert_array_equal(together, np.resize(numbers, world))


@settings(deadline=None)
@given(SCHEDULES)
def test_evaluation_sees_every_image_once(settings: dict) -> None:
    settings = settings | {"drop_last": False}
    world = settings["world_size"]
    ranks = [BatchSchedule(**settings, shuffle=False, rank=rank) for rank in range(world)]
    seen = [int(i) for rank in ranks for batch in rank.batches(0) for i in batch]
    assert sorted(seen) == list(range(settings["count"]))
    assert all(len(rank.batches(0)) == len(rank) for rank in ranks)
    # the batches of a single process with this batch size, in turn
    alone = BatchSchedule(**settings | {"world_size": 1}, shuffle=False).batches(0)
    for rank in range(world):
        for mine, its in zip(ranks[rank].batches(0), alone[rank::world], strict=True):
            np.testing.assert_array_equal(mine, its)


def test_order_changes_with_epoch_and_seed_only() -> None:
    schedule = BatchSchedule(50, 5, shuffle=True, seed=1)
    np.testing.assert_array_equal(schedule.order(2), schedule.order(2))
    assert schedule.order(2).tolist() != schedule.order(3).tolist()
    other = BatchSchedule(50, 5, shuffle=True, seed=2)
    assert schedule.order(2).tolist() != other.order(2).tolist()


# Loading ---------------------------------------------------------------------------------------


def test_workers_change_nothing(path: Path) -> None:
    plain, parallel = make_loader(path), make_loader(path, num_workers=2)
    for epoch in (0, 1, 6):
        plain.set_epoch(epoch)
        parallel.set_epoch(epoch)
        pairs = list(zip(plain, parallel, strict=True))
        assert len(pairs) == len(plain) == 4
        assert all(same(a, b) for a, b in pairs)


def test_closing_ends_the_workers_at_once(path: Path) -> None:
    loader = make_loader(path, num_workers=1)
    unfinished = iter(loader)
    next(unfinished)
    (worker,) = loader._workers()
    for _ in range(2):
        loader.close()
        assert not worker.is_alive()
    assert len(list(loader)) == len(loader)
    loader.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_starting_in_the_middle_continues(path: Path, workers: int) -> None:
    loader = make_loader(path, num_workers=workers)
    loader.set_epoch(2)
    whole = list(loader)
    loader.set_epoch(2, start_batch=3)
    rest = list(loader)
    assert len(rest) == len(whole) - 3
    assert all(same(a, b) for a, b in zip(rest, whole[3:], strict=True))
    assert len(loader) == 4  # per epoch, wherever it starts


def test_loading_leaves_the_global_random_state_alone(path: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(make_loader(path))
    list(make_loader(path, num_workers=1))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_broken_images_met_by_workers_are_reported(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    break_image(path, 3)
    loader = make_loader(path, num_workers=1)
    assert sum(len(batch) for batch in loader) == COUNT
    assert caplog.text.count("3.jpg: unreadable image") == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_workers_stay_one_line(path: Path, workers: int) -> None:
    loader = make_loader(path, num_workers=workers)
    for number in range(COUNT):
        break_image(path, number)
    with pytest.raises(DataError) as caught:
        list(loader)
    assert "20 images in a row cannot be read" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: unable to allocate "
        "shared memory(shm) for file </torch_1_2_3>: No space left on device (28)",
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
        "dataloader's workers are out of shared memory.",
    ],
)
def test_too_little_shared_memory(path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    loader = make_loader(path, num_workers=1)

    def fail() -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(loader, "_batches", fail)
    with pytest.raises(UsageError, match=r"/dev/shm, which has \d+ MiB; 1 workers") as caught:
        list(loader)
    assert "--shm-size" in (caught.value.hint or "")
    text = "something else"
    with pytest.raises(RuntimeError, match="something else"):
        list(loader)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset by peer"), EOFError()])
def test_a_worker_that_dies_while_it_hands_over_a_batch(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    loader = make_loader(path, num_workers=1)

    def fail() -> None:
        raise error

    monkeypatch.setattr(loader, "_batches", fail)
    with pytest.raises(type(error)):  # nobody died: not ours to explain
        list(loader)
    dead = SimpleNamespace(pid=7, exitcode=-9)
    monkeypatch.setattr(loader, "_workers", lambda: [dead])
    with pytest.raises(WorkerLost, match=r"a loader process \(pid 7\) was killed by SIGKILL"):
        list(loader)


def test_workers_that_are_spawned(path: Path) -> None:
    """As on Windows and macOS: everything is pickled."""
    break_image(path, 3)
    loader = make_loader(path, num_workers=1)
    loader._loader.multiprocessing_context = "spawn"
    plain = make_loader(path)
    assert all(same(a, b) for a, b in zip(plain, loader, strict=True))
    assert loader.dataset.broken.sum() == 1


def test_the_last_batch(path: Path) -> None:
    assert [len(b) for b in make_loader(path)] == [3, 3, 3, 2]
    assert [len(b) for b in make_loader(path, drop_last=True)] == [3, 3, 3]
    # a data set smaller than a batch trains nevertheless
    assert [len(b) for b in make_loader(path, drop_last=True, batch_size=64)] == [COUNT]


def test_the_authors_data_loader(path: Path) -> None:
    data = DetectionDataset(read_coco(path), Compose(RECIPE))
    collate = MODULES.create("BatchImageCollateFunction")
    options = {"dataset": data, "collate_fn": collate, "shuffle": False}
    loader = MODULES.create("DataLoader", **options, total_batch_size=4, world_size=2, rank=1)
    assert [len(b) for b in loader] == [2, 2, 1]
    for wrong in ({}, {"total_batch_size": 4, "batch_size": 2}):
        with pytest.raises(UsageError, match="either"):
            MODULES.create("DataLoader", **options, **wrong)
    with pytest.raises(UsageError, match="cannot be shared by 3"):
        MODULES.create("DataLoader", **options, total_batch_size=4, world_size=3)
    with pytest.raises(UsageError, match="at least 1"):
        MODULES.create("DataLoader", **options, batch_size=0)
