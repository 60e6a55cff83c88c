"""Mosaic: against torchvision's operations, and as a function of (seed, epoch, index)."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from detrkit.data import Compose, DetectionDataset, pixels
from detrkit.data.canvas import Canvas
from detrkit.data.coco import read_coco
from detrkit.data.memory import PictureMemory
from detrkit.data.sample import Sample, SampleKey
from detrkit.data.transforms import Mosaic, RandomHorizontalFlip, RandomPhotometricDistort, Resize
from detrkit.data.transforms.mosaic import _hulls
from detrkit.errors import ConfigError
from tests.data.conftest import CocoMaker, box
from tests.data.test_dataset import break_image, images
from tests.data.test_distribution import p_values, statistics
from tests.data.test_transforms import picture, rng

SIZE = (64, 80)
COUNT = 300
FILL = 90
STILL = {"rotation_range": 0, "translation_range": None, "scaling_range": None}


class Pictures:
    """Six pictures of two shapes; picture n holds n boxes, all of label n."""

    def __init__(self) -> None:
        self.images = [
            picture(*((40, 60) if n % 2 else (60, 40)), seed=n).mul(0.5 + n / 12).to(torch.uint8)
            for n in range(6)
        ]
        self.boxes = [
            np.array([[4 * k, 2 * n, 4 * k + 12 + n, 2 * n + 9] for k in range(n)], np.float32)
            for n in range(6)
        ]
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def other(self, number: int) -> Sample:
        self.asked.append(number)
        image = self.images[number].permute(1, 2, 0).contiguous().permute(2, 0, 1)
        boxes = self.boxes[number].reshape(-1, 4).copy()
        labels = np.full(len(boxes), number)
        return Sample(Canvas.of(image, exact=False), boxes, labels, source=self)


def mosaic(number: int = 3, seed: object = 0, **arguments: object) -> Sample:
    source = Pictures()
    arguments = {"output_size": 32} | arguments
    return Mosaic(**arguments)(source.other(number), np.random.default_rng(seed))  # type: ignore[arg-type]


# Against torchvision ---------------------------------------------------------------------------


def test_the_four_quarters() -> None:
    """Without any motion: own picture first, sizes of torchvision's Resize, black rest."""
    source = Pictures()
    result = mosaic(3, seed=5, use_cache=False, **STILL)
    generator = np.random.default_rng(5)
    generator.random()  # whether at all
    numbers = [3, *generator.integers(6, size=3)]
    parts = [TF.resize_image(source.images[n], 32) for n in numbers]
    height, width = (max(part.shape[axis] for part in parts) for axis in (1, 2))
    expected = torch.zeros(3, 2 * height, 2 * width, dtype=torch.uint8)
    boxes = []
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    for number, part, (x, y) in zip(numbers, parts, corners, strict=True):
        h, w = part.shape[1:]
        expected[:, y : y + h, x : x + w] = part
        fx, fy = w / source.images[number].shape[2], h / source.images[number].shape[1]
        for b in source.boxes[number].reshape(-1, 4):
            boxes.append([b[0] * fx + x, b[1] * fy + y, b[2] * fx + x, b[3] * fy + y])
    assert result.image.shape == expected.shape
    assert (result.image.int() - expected.int()).abs().max() <= 1
    np.testing.assert_allclose(result.boxes_xyxy, boxes, atol=1e-4)
    assert result.labels.tolist() == [n for n in numbers for _ in range(n)]
    assert len(result.area) == len(boxes)


@settings(max_examples=30, deadline=None)
@given(
    angle=st.floats(-45, 45),
    zoom=st.floats(0.5, 1.5),
    shift=st.tuples(st.integers(-10, 10), st.integers(-10, 10)),
    flip=st.booleans(),
    with_opencv=st.booleans(),
)
def test_motion_is_torchvision_s_affine(
    angle: float, zoom: float, shift: tuple[int, int], flip: bool, with_opencv: bool
) -> None:
    """One resampling of the mosaic against affine, flip and resize one after the other."""
    image = picture(60, 90)
    boxes = np.array([[10, 5, 30, 25], [50, 30, 88, 58]], np.float32)
    turn = Mosaic(rotation_range=(angle, angle), translation_range=None, scaling_range=(zoom, zoom))
    matrix = turn._matrix((60, 90), rng())
    matrix[:, 2] += shift
    canvas = Canvas(image, (60, 90), fill=(FILL,) * 3, warp=matrix)
    if flip:
        canvas.mirror()
    before = pixels.HAVE_OPENCV
    pixels.HAVE_OPENCV = with_opencv and before
    try:
        ours, mapping = canvas.render((45, 60))
    finally:
        pixels.HAVE_OPENCV = before
    assert mapping == (60 / 90, 45 / 60, 0.0, 0.0)
    arguments = {"angle": angle, "translate": list(shift), "scale": zoom, "shear": [0.0, 0.0]}
    # resampled twice: with more pixels in between that hardly shows
    large = TF.resize_image(image, [240, 360])
    arguments_large = arguments | {"translate": [4 * s for s in shift]}
    naive = TF.affine(
        large, **arguments_large, interpolation=TF.InterpolationMode.BILINEAR, fill=[FILL] * 3
    )
    naive = TF.horizontal_flip(naive) if flip else naive
    difference = (ours.int() - TF.resize_image(naive, [45, 60]).int()).abs().float()
    assert difference.mean() < 4
    assert difference.median() <= 2
    expected = TF.affine(
        tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=(60, 90)),
        **arguments,
    )
    sample = Sample(Canvas(image, (60, 90)), _hulls(boxes, matrix), np.arange(2))
    sample.clip()
    np.testing.assert_allclose(sample.boxes_xyxy, expected.numpy(), atol=1e-3)


RECIPE = [
    {"type": "Mosaic", "output_size": 32, "rotation_range": 10, "fill_value": FILL}
    | {"translation_range": [0.1, 0.1], "scaling_range": [0.5, 1.5], "use_cache": False},
    {"type": "RandomPhotometricDistort", "p": 0.5},
    {"type": "SanitizeBoundingBoxes", "min_size": 1},
    {"type": "RandomHorizontalFlip"},
    {"type": "Resize", "size": SIZE},
    {"type": "SanitizeBoundingBoxes", "min_size": 1},
]


def torchvision_results(count: int) -> list[dict[str, float]]:
    """The authors' mosaic from the data set, in torchvision's own operations."""
    torch.manual_seed(3)
    source = Pictures()
    resize = T.Resize(32)
    ops = [
        T.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.5, 1.5), fill=FILL),
        T.RandomPhotometricDistort(p=0.5),
        T.SanitizeBoundingBoxes(min_size=1),
        T.RandomHorizontalFlip(),
        T.Resize(size=SIZE),
        T.ClampBoundingBoxes(),
        T.SanitizeBoundingBoxes(min_size=1),
    ]
    results = []
    for step in range(count):
        items = []
        for number in [step % 6, *torch.randint(6, (3,)).tolist()]:
            image = Image.fromarray(source.images[number].permute(1, 2, 0).numpy())
            boxes = torch.from_numpy(source.boxes[number].reshape(-1, 4))
            boxes = tv_tensors.BoundingBoxes(
                boxes, format="XYXY", canvas_size=(image.height, image.width)
            )
            items.append(resize(image, boxes))
        w, h = (max(getattr(image, side) for image, _ in items) for side in ("width", "height"))
        canvas = Image.new("RGB", (2 * w, 2 * h))
        moved = []
        for (image, boxes), (x, y) in zip(items, [(0, 0), (w, 0), (0, h), (w, h)], strict=True):
            canvas.paste(image, (x, y))
            moved.append(boxes + torch.tensor([x, y, x, y]))
        boxes = tv_tensors.BoundingBoxes(
            torch.cat(moved), format="XYXY", canvas_size=(2 * h, 2 * w)
        )
        target = {"boxes": boxes, "labels": torch.arange(len(boxes))}
        result = canvas
        for op in ops:
            result, target = op(result, target)
        values = np.asarray(result, np.float32)
        results.append(statistics(values, target["boxes"].numpy()))
    return results


def our_results(count: int, change: dict | None = None) -> list[dict[str, float]]:
    source = Pictures()
    compose = Compose([RECIPE[0] | (change or {}), *RECIPE[1:]])
    results = []
    for step in range(count):
        item = compose(source.other(step % 6), np.random.default_rng([9, step]))
        values = item.image.permute(1, 2, 0).numpy().astype(np.float32)
        results.append(statistics(values, item.boxes_xyxy))
    return results


@pytest.fixture(scope="module")
def expected() -> list[dict[str, float]]:
    return torchvision_results(COUNT)


#: We interpolate once, the authors take the nearest pixel and then smooth: sharper or softer
#: edges are meant.
NOT_COMPARED = {"edges"}


def compared(a: list[dict[str, float]], b: list[dict[str, float]]) -> dict[str, float]:
    return {name: p for name, p in p_values(a, b).items() if name not in NOT_COMPARED}


def test_results_are_distributed_as_torchvision_s(expected: list[dict[str, float]]) -> None:
    values = compared(expected, our_results(COUNT))
    assert min(values.values()) > 0.001, values


@pytest.mark.parametrize(
    "change",
    [
        {"scaling_range": [0.85, 1.5]},
        {"rotation_range": 30},
        {"fill_value": 40},
    ],
)
def test_the_comparison_notices_a_change(expected: list[dict[str, float]], change: dict) -> None:
    values = compared(expected, our_results(COUNT, change))
    assert min(values.values()) < 0.001, values


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_times_as_many_results_are_distributed_as_torchvision_s() -> None:
    expected = torchvision_results(10 * COUNT)
    values = compared(expected, our_results(10 * COUNT))
    assert min(values.values()) > 0.001, values
    for change in (
        {"scaling_range": [0.58, 1.5]},
        {"rotation_range": 15},
        {"fill_value": 80},
        {"translation_range": [0.25, 0.1]},
    ):
        values = compared(expected, our_results(10 * COUNT, change))
        assert min(values.values()) < 0.001, (change, values)


# Which pictures --------------------------------------------------------------------------------


def test_pictures_repeat_as_from_a_full_list() -> None:
    """With a list of 4: each is the own picture in 1 of 4, two are the same as often or more."""
    source = Pictures()
    own = source.other(0)
    own.render(Resize(32).output_size(own.size))
    transform = Mosaic(output_size=32, max_cached_images=4)
    drawn = [transform._others(own, np.random.default_rng(seed)) for seed in range(500)]
    assert np.mean([tile is own for tiles in drawn for tile in tiles]) == pytest.approx(
        0.25, abs=0.04
    )
    # the same place, or two places that the same one of six was drawn for
    expected = 1 / 4 + (3 / 4 * 2 / 4) / 6
    for i, k in ((0, 1), (0, 2), (1, 2)):
        same = np.mean([tiles[i] is tiles[k] for tiles in drawn])
        assert same == pytest.approx(expected, abs=0.07)
    # without the list: any picture of the data set, each time anew
    transform = Mosaic(output_size=32, use_cache=False)
    labels = [
        tile.labels[0] if len(tile) else 0
        for seed in range(200)
        for tile in transform._others(own, np.random.default_rng(seed))
    ]
    assert min(np.bincount(labels, minlength=6)) > 70


def test_memory_changes_nothing() -> None:
    """Pictures read anew and pictures from the memory give the same mosaic."""
    source = Pictures()
    used, fresh = Mosaic(output_size=32), Mosaic(output_size=32)
    for seed in range(12):
        used(source.other(seed % 6), rng(seed))
    reads = len(source.asked)
    for seed in range(12, 24):
        fresh._memory.clear()
        a = used(source.other(seed % 6), rng(seed))
        b = fresh(source.other(seed % 6), rng(seed))
        assert torch.equal(a.image, b.image)
        np.testing.assert_array_equal(a.boxes_xyxy, b.boxes_xyxy)
    assert len(used._memory) == 6
    assert len(source.asked) - reads > 24
    other = Pictures()
    other.images.reverse()
    a, b = (m(other.other(1), rng(1)) for m in (used, Mosaic(output_size=32)))
    assert torch.equal(a.image, b.image)  # another data set: nothing is taken from the first
    assert len(pickle.loads(pickle.dumps(used))._memory) == 0


def test_memory_is_bounded() -> None:
    source = Pictures()
    memory = PictureMemory(limit=3 * 40 * 60 * 3)
    for number in (0, 1, 2, 0, 3):
        if memory.get(number) is None:
            memory.put(number, source.other(number))
    assert [n for n in range(6) if memory.get(n) is not None] == [0, 2, 3]
    assert memory.used == memory.limit
    memory.put(4, Sample(Canvas.of(picture(100, 100)), np.zeros((0, 4), np.float32), np.zeros(0)))
    assert len(memory) == 0  # larger than all of it


# In a data set ---------------------------------------------------------------------------------

#: DEIM's plan in small: mosaic in epochs 1 to 3, other augmentation in 1 to 5.
DEIM = {
    "ops": [
        {"type": "Mosaic", "output_size": 32, "rotation_range": 10, "fill_value": 0},
        {"type": "RandomPhotometricDistort", "p": 0.5},
        {"type": "RandomZoomOut", "fill": 0},
        {"type": "RandomIoUCrop", "p": 0.8},
        {"type": "SanitizeBoundingBoxes", "min_size": 1},
        {"type": "RandomHorizontalFlip"},
        {"type": "Resize", "size": [48, 80]},
        {"type": "SanitizeBoundingBoxes", "min_size": 1},
    ],
    "policy": {
        "name": "stop_epoch",
        "epoch": [1, 3, 5],
        "ops": ["Mosaic", "RandomPhotometricDistort", "RandomZoomOut", "RandomIoUCrop"],
    },
    "mosaic_prob": 0.5,
}


def test_stages_of_the_policy() -> None:
    compose = Compose(**DEIM)

    def names(epoch: int, mosaic: bool = False) -> set[str]:
        return {type(t).__name__ for t in compose.active(epoch, mosaic=mosaic)}

    always = {"SanitizeBoundingBoxes", "RandomHorizontalFlip", "Resize"}
    strong = {"RandomPhotometricDistort", "RandomZoomOut", "RandomIoUCrop"}
    assert names(0) == names(5) == names(99) == always
    assert names(1) == names(2) == names(3) == names(4) == always | strong
    assert names(1, mosaic=True) == always | {"Mosaic", "RandomPhotometricDistort"}
    shares = {e: np.mean([compose._draw_mosaic(e, rng(s)) for s in range(400)]) for e in range(6)}
    assert [e for e, share in shares.items() if share] == [1, 2]
    assert 0.42 < shares[1] < 0.58
    # the authors' default: never
    without = Compose(DEIM["ops"], DEIM["policy"])
    assert not any(without._draw_mosaic(1, rng(s)) for s in range(50))
    # one number: on from the start, always, as Mosaic's own probability says
    plain = Compose(DEIM["ops"], DEIM["policy"] | {"epoch": 3})
    assert any(isinstance(t, Mosaic) for t in plain.active(2))
    assert not any(isinstance(t, Mosaic) for t in plain.active(3))


@pytest.mark.parametrize("epoch", [[1, 2], "4", [1, 2, "3"], None])
def test_a_policy_that_cannot_be(epoch: object) -> None:
    with pytest.raises(ConfigError, match="a number or three numbers"):
        Compose(DEIM["ops"], DEIM["policy"] | {"epoch": epoch})


@pytest.fixture
def path(make_coco: CocoMaker) -> Path:
    entries = [box(2 * i + k, image=i) for i in range(6) for k in range(i % 3)]
    return make_coco(entries, images(6))


def test_samples_depend_on_seed_epoch_and_index_alone(path: Path) -> None:
    index = read_coco(path)
    data, again = (DetectionDataset(index, Compose(**DEIM), seed=3) for _ in range(2))
    for number in (5, 1, 1, 0):
        again[SampleKey(2, 0, number)]
    for number in range(6):
        a, b = data[SampleKey(1, 0, number)], again[SampleKey(1, 4, number)]
        assert torch.equal(a.image, b.image)
        np.testing.assert_array_equal(a.boxes_xyxy, b.boxes_xyxy)
        assert a.source is None
    assert pickle.loads(pickle.dumps(a)).size == (48, 80)


def test_unreadable_pictures_are_replaced(path: Path) -> None:
    break_image(path, 2)
    always = Compose([RECIPE[0]])
    data = DetectionDataset(read_coco(path), always, seed=1)
    again = DetectionDataset(read_coco(path), always, seed=1)
    for number in (3, 2, 0, 4):
        again[number]
    for number in range(6):
        assert torch.equal(data[number].image, again[number].image)
    assert data.broken.tolist() == [0, 0, 1, 0, 0, 0]
    assert data.other(2).image_id == data.other(2).image_id != 2


def test_no_boxes_at_all(make_coco: CocoMaker) -> None:
    data = DetectionDataset(read_coco(make_coco([], images(2))), Compose(**DEIM))
    for number in range(20):
        item = data[SampleKey(1, 0, number % 2)]
        assert (len(item), item.boxes_xyxy.shape, item.image.shape) == (0, (0, 4), (3, 48, 80))


@settings(max_examples=30, deadline=None)
@given(
    h=st.integers(1, 90),
    w=st.integers(1, 90),
    seed=st.integers(0, 99),
    size=st.sampled_from([8, 33, [10, 30]]),
    max_size=st.sampled_from([None, 40]),
)
def test_any_size_gives_boxes_inside(
    h: int, w: int, seed: int, size: object, max_size: int | None
) -> None:
    item = Sample(Canvas.of(picture(h, w)), np.array([[0, 0, w, h]], np.float32), np.array([7]))
    max_size = None if isinstance(size, list) else max_size
    item = Mosaic(size, max_size, rotation_range=10)(item, rng(seed))  # type: ignore[arg-type]
    item = RandomHorizontalFlip(p=1)(item, rng())
    item = Resize([24, 24])(item, rng())
    x1, y1, x2, y2 = item.boxes_xyxy.T
    assert item.image.shape == (3, 24, 24)
    assert ((x1 >= 0) & (y1 >= 0) & (x2 <= 24) & (y2 <= 24) & (x2 > x1) & (y2 > y1)).all()
    assert len(item) == len(item.area) == len(item.labels) <= 4


def test_probability() -> None:
    source = Pictures()
    same = [
        Mosaic(output_size=32, probability=0.3)(source.other(1), rng(s)).size == (40, 60)
        for s in range(200)
    ]
    assert 0.6 < np.mean(same) < 0.8


def test_rtdetr_s_form_cuts_a_square() -> None:
    item = mosaic(1, size=32)
    assert item.image.shape == (3, 32, 32)
    assert mosaic(1, size=32, max_size=48).image.shape == (3, 48, 48)


def test_colours_change_the_whole_canvas() -> None:
    """Fill included, as where the mosaic is painted first; the mean of the contrast sees it."""
    for seed in range(20):
        lazy, eager = (mosaic(seed=1, rotation_range=10, fill_value=200) for _ in range(2))
        eager.render()
        assert eager.canvas.pristine
        distort = RandomPhotometricDistort(p=0.7)
        a, b = distort(lazy, rng(seed)).image, distort(eager, rng(seed)).image
        assert (a.int() - b.int()).abs().float().mean() < 2.5


def test_zoom_out_and_crop_after_a_mosaic() -> None:
    """Lists without stages have both: what the mosaic cut off stays away."""
    ops = Compose([*DEIM["ops"][2:4], {"type": "RandomHorizontalFlip"}])
    moved = 0
    for seed in range(15):
        lazy, eager = (mosaic(seed=1, rotation_range=20, fill_value=200) for _ in range(2))
        eager.render()
        a, b = ops(lazy, rng(seed)), ops(eager, rng(seed))
        np.testing.assert_allclose(a.boxes_xyxy, b.boxes_xyxy, atol=1e-3)
        if a.canvas.warp is None:
            moved += 1
            assert torch.equal(a.image, b.image)
    assert moved > 5


@pytest.mark.parametrize(
    "arguments",
    [
        {"rotation_range": -3},
        {"translation_range": [0.1, 2]},
        {"scaling_range": [0, 1]},
        {"scaling_range": [2, 1]},
        {"fill_value": 300},
        {"max_cached_images": 0},
    ],
)
def test_impossible_arguments(arguments: dict) -> None:
    with pytest.raises(ConfigError, match="Mosaic"):
        Compose([{"type": "Mosaic"} | arguments])
