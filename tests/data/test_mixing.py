"""MixUp and CopyBlend, in the collate function and alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.data import (
    BatchImageCollateFunction,
    Compose,
    DetectionDataset,
    build_loader,
    pixels,
)
from detrkit.data.canvas import Canvas
from detrkit.data.coco import read_coco
from detrkit.data.mixing import CopyBlend, Window, mix_up
from detrkit.data.sample import Sample, SampleKey
from detrkit.registry import MODULES
from tests.data.conftest import CocoMaker, box
from tests.data.test_dataset import images
from tests.data.test_loader import same
from tests.data.test_mosaic import DEIM
from tests.data.test_transforms import picture, rng

H, W = 40, 60


def samples(*boxes: list[list[float]], level: int | None = None) -> list[Sample]:
    """One picture for each list of boxes; the labels of picture n are n."""
    result = []
    for number, rows in enumerate(boxes):
        image = picture(H, W, seed=number)
        if level is not None:
            image = torch.full_like(image, level * (number + 1))
        array = np.asarray(rows, np.float32).reshape(-1, 4)
        labels = np.full(len(array), number)
        key = SampleKey(0, 0, number)
        result.append(Sample(Canvas.of(image), array, labels, image_id=number, key=key))
    return result


TWO = ([[0, 0, 10, 10], [5, 5, 30, 30]], [[20, 20, 60, 40]])


# MixUp -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_opencv", [True, False])
def test_mix_up_blends_with_the_image_before(
    with_opencv: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """images.roll(1) * (1 - share) + images * share, own boxes first."""
    monkeypatch.setattr(pixels, "HAVE_OPENCV", with_opencv and pixels.HAVE_OPENCV)
    batch = samples(*TWO, [])
    share = rng(4).uniform(0.45, 0.55)
    mixed = mix_up(batch, rng(4))
    floats = torch.stack([s.image for s in batch]).double()
    expected = floats.roll(1, 0) * (1 - share) + floats * share
    ours = torch.stack([s.image for s in mixed]).double()
    assert (ours - expected).abs().max() <= 0.5 + 1e-4
    assert [s.labels.tolist() for s in mixed] == [[0, 0], [1, 0, 0], [1]]
    np.testing.assert_array_equal(mixed[1].boxes_xyxy, TWO[1] + TWO[0])
    assert [s.image_id for s in mixed] == [0, 1, 2]
    assert [len(s.area) for s in mixed] == [2, 3, 1]
    assert [len(s) for s in batch] == [2, 1, 0]  # what came in is as it was


def test_mix_up_shares_are_near_a_half() -> None:
    levels = [
        float(mix_up(samples([], [], level=100), rng(seed))[0].image[0, 0, 0]) for seed in range(99)
    ]  # 100 own, 200 the other
    assert 144.5 <= min(levels) < 147
    assert 153 < max(levels) <= 155.5


def test_a_single_image_is_not_mixed_with_itself() -> None:
    (only,) = mix_up(samples(TWO[0]), rng())
    assert len(only) == 2
    assert torch.equal(only.image, picture(H, W))


# CopyBlend -------------------------------------------------------------------------------------


def test_objects_of_the_batch_are_copied() -> None:
    batch = samples(*TWO, [])
    copied = CopyBlend(num_objects=2)(batch, rng(1))
    assert [len(s) for s in copied] == [4, 3, 2]
    for before, after in zip(batch, copied, strict=True):
        own = len(before)
        np.testing.assert_array_equal(after.boxes_xyxy[:own], before.boxes_xyxy)
        sides = {
            (int(y[2] - y[0]), int(y[3] - y[1]), int(label))
            for y, label in zip(after.boxes_xyxy[own:], after.labels[own:], strict=True)
        }
        assert len(sides) == 2  # different objects
        assert sides <= {(10, 10, 0), (25, 25, 0), (40, 20, 1)}
        assert len(after.area) == len(after)
    assert torch.equal(batch[2].image, picture(H, W, seed=2))


@pytest.mark.parametrize("paste", [False, True])
def test_pixels_of_a_copy(paste: bool) -> None:
    (before, after) = samples([[5, 6, 25, 16]], [])
    _, result = CopyBlend(paste=paste, num_objects=1)([before, after], rng(7))
    share = 0.0 if paste else rng(7).uniform(0.45, 0.55)
    x1, y1, x2, y2 = result.boxes_xyxy[0].astype(int)
    expected = after.image.double()
    patch = before.image[:, 6:16, 5:25].double()
    expected[:, y1:y2, x1:x2] = expected[:, y1:y2, x1:x2] * share + patch * (1 - share)
    assert (result.image.double() - expected).abs().max() <= 0.5 + 1e-4


def test_surroundings_come_along_as_far_as_both_images_reach() -> None:
    batch = samples([[2, 10, 22, 20]], [], level=50)  # 50 and 100
    grown = set()
    for seed in range(60):
        blend = CopyBlend(paste=True, num_objects=1, expand_ratios=(0.5, 0.5))
        result = blend(batch, rng(seed))[1]
        x1, y1, x2, y2 = result.boxes_xyxy[0].astype(int).tolist()
        assert (x2 - x1, y2 - y1) == (20, 10)
        rows, columns = np.nonzero(result.image[0].numpy() == 50)
        left, right = x1 - columns.min(), columns.max() + 1 - x2
        above, below = y1 - rows.min(), rows.max() + 1 - y2
        assert left == min(2, x1)  # the object lies 2 pixels from its image's border
        assert right == min(10, W - x2)
        assert (above, below) == (min(5, y1), min(5, H - y2))
        grown.add((left, right, above, below))
    assert len(grown) > 5


def test_places_are_anywhere() -> None:
    batch = samples([[0, 0, 20, 10]], [])
    corners = np.array(
        [CopyBlend(num_objects=1)(batch, rng(s))[1].boxes_xyxy[0, :2] for s in range(300)]
    )
    assert corners.min(0).tolist() == [0, 0]
    assert corners.max(0).tolist() == [W - 20, H - 10]
    np.testing.assert_allclose(corners.mean(0), [20, 15], atol=1.6)


def test_only_large_objects_and_as_many_as_asked() -> None:
    batch = samples([[0, 0, 9, 9], [0, 0, 10, 10], [0, 0, 30, 30]], [])
    assert len(CopyBlend()(batch, rng())[1]) == 2  # of 100 and more square pixels
    batch[0].area[:] = 99
    assert [len(s) for s in CopyBlend()(batch, rng())] == [3, 0]
    batch[0].area[:] = 100
    assert len(CopyBlend(num_objects=1)(batch, rng())[1]) == 1
    random = CopyBlend(num_objects=2, random_num_objects=True)
    counts = [len(random(batch, rng(s))[1]) for s in range(200)]
    assert set(counts) == {1, 2}
    assert 70 < counts.count(1) < 130


def test_area_is_that_of_the_annotation(make_coco: CocoMaker) -> None:
    """In the image file, however large the object has become."""
    path = make_coco([box(1, area=80), box(2, area=200, bbox=[0, 0, 14, 20])])
    ops = [{"type": "RandomHorizontalFlip"}, {"type": "Resize", "size": [400, 600]}]
    sample = DetectionDataset(read_coco(path), Compose(ops))[0]
    assert sample.area.tolist() == [80, 200]
    assert len(CopyBlend()([sample], rng())[0]) == 3


@settings(max_examples=40, deadline=None)
@given(
    boxes=st.lists(
        st.tuples(*[st.floats(0, 59)] * 2, *[st.floats(0.1, 60)] * 2), min_size=0, max_size=5
    ),
    count=st.integers(1, 3),
    seed=st.integers(0, 50),
    paste=st.booleans(),
    expand=st.booleans(),
)
def test_boxes_stay_inside(
    boxes: list[tuple[float, ...]], count: int, seed: int, paste: bool, expand: bool
) -> None:
    rows = [[x, y * H / W, min(x + w, W), min(y * H / W + h, H)] for x, y, w, h in boxes]
    blend = CopyBlend(paste, 0, count, True, (0.1, 0.25) if expand else None)
    for before, after in zip(batch := samples(rows, []), blend(batch, rng(seed)), strict=True):
        own = len(before)
        copies = after.boxes_xyxy[own:]
        assert len(copies) <= count
        assert after.image.shape == (3, H, W)
        assert (copies >= 0).all()
        assert (copies <= [W, H, W, H]).all()
        assert (copies[:, 2:] - copies[:, :2] >= 1).all()


# In batches ------------------------------------------------------------------------------------


def test_windows() -> None:
    window = Window(0.5, 4, 29)
    shares = [np.mean([window.hits(e, rng(s)) for s in range(300)]) for e in (3, 4, 28, 29)]
    assert shares[0] == shares[3] == 0
    assert all(0.4 < share < 0.6 for share in shares[1:3])
    assert not any(Window(1.0, 40000, 15000).hits(e, rng()) for e in (0, 20000, 50000))


def test_mix_up_comes_before_copy_blend() -> None:
    """A batch gets one of them: CopyBlend where MixUp was not drawn or has ended."""
    collate = BatchImageCollateFunction(
        mixup_prob=0.5, mixup_epochs=[4, 6], copyblend_prob=0.5, copyblend_epochs=[4, 8], seed=1
    )
    kinds = {e: {"plain": 0, "mixed": 0, "copied": 0} for e in (3, 4, 6, 8)}
    for epoch, count in kinds.items():
        for step in range(200):
            batch = samples(*TWO)
            for item in batch:
                item.key = SampleKey(epoch, step, item.key.index)
            lengths = [len(s) for s in collate.mixed(batch)]
            kind = {(2, 1): "plain", (3, 3): "mixed", (5, 4): "copied"}[tuple(lengths)]  # type: ignore[index]
            count[kind] += 1
    assert kinds[3] == kinds[8] == {"plain": 200, "mixed": 0, "copied": 0}
    assert 75 < kinds[4]["mixed"] < 125
    assert 30 < kinds[4]["copied"] < 70
    assert kinds[6]["mixed"] == 0
    assert 75 < kinds[6]["copied"] < 125


def test_batches_hold_the_mixed_boxes() -> None:
    collate = BatchImageCollateFunction(mixup_prob=1.0, mixup_epochs=[0, 1])
    batch = collate(samples(*TWO, []))
    assert [len(t) for t in batch.targets] == [2, 3, 1]
    np.testing.assert_allclose(batch.targets[2].boxes_cxcywh, [[40 / 60, 30 / 40, 40 / 60, 0.5]])
    empty = collate(samples([], []))
    assert [t.boxes_cxcywh.shape for t in empty.targets] == [(0, 4)] * 2
    copies = BatchImageCollateFunction(copyblend_prob=1.0, copyblend_epochs=[0, 1])
    assert [len(t) for t in copies(samples([], [])).targets] == [0, 0]
    assert [len(t) for t in copies(samples(TWO[0])).targets] == [4]


def test_the_authors_arguments() -> None:
    arguments = {
        "stop_epoch": 120,
        "ema_restart_decay": 0.9999,
        "base_size": 640,
        "base_size_repeat": 20,
        "mixup_prob": 0.5,
        "mixup_epochs": [4, 64],
        "copyblend_prob": 0.5,
        "copyblend_epochs": [4, 120],
        "copyblend_type": "paste",
        "conflict_with_mixup": False,
        "area_threshold": 50,
        "num_objects": 4,
        "with_expand": True,
        "expand_ratios": [0.1, 0.3],
        "random_num_objects": True,
        "data_vis": True,
        "vis_save": "./nowhere/",
    }
    collate = MODULES.create("BatchImageCollateFunction", **arguments)
    assert collate.copy_objects == CopyBlend(True, 50, 4, True, (0.1, 0.3))
    assert collate.mixup == Window(0.5, 4, 64)
    assert collate.copyblend == Window(0.5, 4, 120)
    assert len(collate.scales) == 30
    assert not Path("nowhere").exists()


def test_rtdetr_s_list_of_sizes() -> None:
    collate = BatchImageCollateFunction(scales=[480, [512, 640]], stop_epoch=71)
    assert {collate.size_at(70, s) for s in range(20)} == {(480, 480), (512, 640)}
    assert collate.size_at(71, 0) is None
    assert BatchImageCollateFunction(scales=None, stop_epoch=71).size_at(0, 0) is None
    with pytest.raises(ValueError, match="base_size_repeat"):
        BatchImageCollateFunction(scales=[480], base_size_repeat=3)
    with pytest.raises(ValueError, match="mixup_epochs"):
        BatchImageCollateFunction(mixup_epochs=[4])


@pytest.mark.parametrize("workers", [0, 2])
def test_mixed_batches_are_the_same_anywhere(make_coco: CocoMaker, workers: int) -> None:
    """Whatever the number of workers and the batch that an epoch starts with."""
    path = make_coco([box(2 * i + k, image=i) for i in range(12) for k in range(i % 3)], images(12))

    def loader(workers: int) -> object:
        collate = BatchImageCollateFunction(
            stop_epoch=4,
            base_size=(48, 80),
            base_size_repeat=2,
            mixup_prob=0.4,
            mixup_epochs=[1, 3],
            copyblend_prob=0.8,
            copyblend_epochs=[1, 5],
            with_expand=True,
        )
        data = DetectionDataset(read_coco(path), Compose(**DEIM))
        return build_loader(
            data, batch_size=3, shuffle=True, seed=4, num_workers=workers, collate=collate
        )

    plain, other = loader(0), loader(workers)
    for epoch in (2, 1, 4):
        plain.set_epoch(epoch)  # type: ignore[attr-defined]
        whole = list(plain)  # type: ignore[call-overload]
        other.set_epoch(epoch, start_batch=2)  # type: ignore[attr-defined]
        rest = list(other)  # type: ignore[call-overload]
        assert len(rest) == 2
        assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))
