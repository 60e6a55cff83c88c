"""Transforms: laws, single operations against torchvision, configuration mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from detrkit.data.canvas import Canvas
from detrkit.data.sample import Sample, SampleKey
from detrkit.data.transforms import (
    Compose,
    PadToSize,
    RandomCrop,
    RandomHorizontalFlip,
    RandomIoUCrop,
    RandomPhotometricDistort,
    RandomZoomOut,
    Resize,
    SanitizeBoundingBoxes,
)
from detrkit.data.transforms.color import Affine, Hue
from detrkit.errors import ConfigError
from detrkit.structures import ImageSpec

RECIPE = [
    {"type": "RandomPhotometricDistort", "p": 0.5},
    {"type": "RandomZoomOut", "fill": 0},
    {"type": "RandomIoUCrop", "p": 0.8},
    {"type": "SanitizeBoundingBoxes", "min_size": 1},
    {"type": "RandomHorizontalFlip"},
    {"type": "Resize", "size": [48, 80]},
    {"type": "SanitizeBoundingBoxes", "min_size": 1},
    {"type": "ConvertPILImage", "dtype": "float32", "scale": True},
    {"type": "ConvertBoxes", "fmt": "cxcywh", "normalize": True},
]


def picture(h: int = 40, w: int = 60, seed: int = 0) -> torch.Tensor:
    """Smooth uint8 RGB (3, h, w), channels last in memory as decoders give it."""
    grid = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    image = Image.fromarray(grid).resize((w, h), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def sample(boxes: object = ((10, 5, 30, 20), (40, 25, 58, 39)), **kwargs: int) -> Sample:
    array = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Sample(Canvas.of(picture(**kwargs)), array, np.arange(len(array)), orig_size=(40, 60))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Pixels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.5, 0.875, 1.0, 1.125, 1.5])
@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
def test_color_changes_equal_torchvision(kind: str, factor: float) -> None:
    image = picture()
    expected = getattr(TF, f"adjust_{kind}")(image, factor).permute(1, 2, 0).numpy()
    arguments = (factor,)
    if kind == "contrast":
        arguments = (factor, float(TF.rgb_to_grayscale(image).float().mean()))
    ours = getattr(Affine, kind)(*arguments)(np.ascontiguousarray(image.permute(1, 2, 0)))
    assert np.abs(ours.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("turn", [-0.05, -0.01, 0.02, 0.05])
def test_hue_equals_pillow(turn: float) -> None:
    pixels = np.ascontiguousarray(picture().permute(1, 2, 0))
    expected = np.asarray(TF.adjust_hue(Image.fromarray(pixels), turn), int)
    difference = np.abs(Hue(int(turn * 255))(pixels) - expected)
    assert difference.mean() < 2  # both round hue and saturation to 8 bits, differently
    assert np.abs(Hue(0)(pixels) - pixels.astype(int)).mean() < 2


def test_hue_wraps_around() -> None:
    red = np.full((2, 2, 3), (200, 10, 20), np.uint8)
    np.testing.assert_array_equal(Hue(-3)(red), Hue(253)(red))
    assert Hue(-20)(red)[0, 0, 2] > 60  # towards magenta: red, then blue


def test_permutation_takes_channels() -> None:
    pixels = np.ascontiguousarray(picture().permute(1, 2, 0))
    ours = Affine.permutation(np.array([2, 0, 1]))(pixels)
    np.testing.assert_array_equal(ours, pixels[..., [2, 0, 1]])


def test_all_colors_off_is_the_identity() -> None:
    item = RandomPhotometricDistort(p=0)(sample(), rng())
    assert torch.equal(item.image, picture())


# Geometry --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    source=st.tuples(st.integers(5, 50), st.integers(5, 50)),
    pad=st.tuples(*[st.integers(0, 40)] * 4),
    cut=st.tuples(*[st.floats(0, 0.6)] * 2),
    size=st.tuples(st.integers(8, 64), st.integers(8, 64)),
    flips=st.tuples(st.booleans(), st.booleans()),
)
def test_one_painting_equals_painting_every_step(
    source: tuple[int, int],
    pad: tuple[int, int, int, int],
    cut: tuple[float, float],
    size: tuple[int, int],
    flips: tuple[bool, bool],
) -> None:
    """Pad, flip, crop, flip, resize: at once and step by step show the same."""
    image = picture(*source)
    canvas = Canvas.of(image)
    left, top, right, bottom = pad
    height, width = source[0] + top + bottom, source[1] + left + right
    canvas.window(-top, -left, (height, width))
    naive = TF.pad(image, [left, top, right, bottom])
    if flips[0]:
        canvas.mirror()
        naive = TF.horizontal_flip(naive)
    y, x = int(cut[0] * height * 0.5), int(cut[1] * width * 0.5)
    h, w = max(int(height * (1 - cut[0])), 1), max(int(width * (1 - cut[1])), 1)
    h, w = min(h, height - y), min(w, width - x)
    canvas.window(y, x, (h, w))
    naive = naive[:, y : y + h, x : x + w]
    if flips[1]:
        canvas.mirror()
        naive = TF.horizontal_flip(naive)
    unscaled, mapping = canvas.render()
    assert torch.equal(unscaled, naive)
    assert mapping == (1, 1, 0, 0)
    ours, (sx, sy, dx, dy) = canvas.render(size)
    assert ours.shape == (3, *size)
    # the picture's corners land within half a pixel of where stretching takes them
    assert abs(0 * sx + dx) <= 0.5 + abs(sx - size[1] / w) * w
    for scale, shift, extent, output in ((sx, dx, w, size[1]), (sy, dy, h, size[0])):
        for at in (0, extent):
            if canvas.covers:
                assert abs(at * scale + shift - at * output / extent) < 1e-4
    if canvas.covers:
        expected = TF.resize_image(naive.contiguous(), list(size), antialias=True)
        assert (ours.int() - expected.int()).abs().max() <= 1


def test_boxes_follow_the_pixels() -> None:
    """A white rectangle on black stays where its box says, whatever happens."""
    pipeline = Compose(
        [
            {"type": "RandomZoomOut", "fill": 0, "p": 0.7},
            {"type": "RandomIoUCrop", "p": 0.7},
            {"type": "RandomHorizontalFlip"},
            {"type": "Resize", "size": [96, 128]},
            {"type": "SanitizeBoundingBoxes"},
        ]
    )
    seen = 0
    for seed in range(150):
        image = torch.zeros(40, 60, 3, dtype=torch.uint8)
        image[8:23, 12:34] = 255
        item = Sample(
            Canvas.of(image.permute(2, 0, 1)),
            np.array([[12, 8, 34, 23]], np.float32),
            np.array([0]),
        )
        item = pipeline(item, rng(seed))
        if not len(item):
            continue
        seen += 1
        # crops clip the box as they clip the picture, so what is white is in the box
        ys, xs = np.nonzero(item.image[0].numpy() > 127)
        found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert np.abs(found - item.boxes_xyxy[0]).max() <= 1.01, seed
    assert seen > 100


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_targets_are_fractions_of_the_picture(seed: int) -> None:
    item = Compose(RECIPE)(sample(), rng(seed))
    target = item.target()
    assert target.boxes_cxcywh.dtype == torch.float32
    centre, extent = target.boxes_cxcywh[:, :2], target.boxes_cxcywh[:, 2:]
    assert (extent > 0).all()
    assert ((centre - extent / 2) > -1e-5).all()
    assert ((centre + extent / 2) < 1 + 1e-5).all()
    assert item.image.shape == (3, 48, 80)
    assert item.image.dtype == torch.uint8


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_no_boxes_pass_through_everything(seed: int) -> None:
    item = Compose([*RECIPE, {"type": "RandomCrop", "size": 20}])(sample(()), rng(seed))
    target = item.target()
    assert target.boxes_cxcywh.shape == (0, 4)
    assert target.labels.shape == (0,)
    assert target.labels.dtype == torch.int64


def test_same_randomness_same_result() -> None:
    first, second, third = (Compose(RECIPE)(sample(), rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(first.image, second.image)
    np.testing.assert_array_equal(first.boxes_xyxy, second.boxes_xyxy)
    assert not torch.equal(first.image, third.image)


def test_flip_twice_is_the_identity() -> None:
    flip = RandomHorizontalFlip(p=1)
    item = flip(flip(sample(), rng()), rng())
    assert torch.equal(item.image, picture())
    np.testing.assert_array_equal(item.boxes_xyxy, sample().boxes_xyxy)


def test_crop_keeps_an_overlap() -> None:
    crop = RandomIoUCrop(sampler_options=[0.5])
    for seed in range(50):
        item = crop(sample(), rng(seed))
        h, w = item.size
        x1, y1, x2, y2 = item.boxes_xyxy.T
        # one clipped box fills the crop by at least the IoU asked for
        assert ((x2 - x1) * (y2 - y1)).max() >= 0.5 * h * w - 1e-3


def test_sanitize_drops_small_and_flat_boxes() -> None:
    boxes = [(0, 0, 5, 5), (0, 0, 0.5, 30), (3, 3, 3, 9), (59.5, 0, 60.5, 5), (0, 0, 60, 40)]
    item = SanitizeBoundingBoxes(min_size=1)(sample(boxes), rng())
    assert item.labels.tolist() == [0, 4]


@pytest.mark.parametrize(
    ("size", "max_size", "expected"),
    [([32, 48], None, (32, 48)), (20, None, (20, 30)), ([20], None, (20, 30)), (40, 45, (30, 45))],
)
def test_resize(size: object, max_size: int | None, expected: tuple[int, int]) -> None:
    item = Resize(size, max_size=max_size)(sample(), rng())  # type: ignore[arg-type]
    assert tuple(item.image.shape[-2:]) == expected
    np.testing.assert_allclose(
        item.target().boxes_cxcywh, sample().target().boxes_cxcywh, atol=1e-5
    )


@settings(deadline=None)
@given(
    h=st.integers(1, 700),
    w=st.integers(1, 700),
    size=st.sampled_from([1, 33, 320, 333]),
    more=st.none() | st.integers(1, 99),
)
def test_the_size_of_the_shorter_side_is_torchvision_s(
    h: int, w: int, size: int, more: int | None
) -> None:
    longest = None if more is None else size + more
    empty = torch.zeros(0, h, w)
    expected = TF.resize_image(empty, [size], max_size=longest).shape[1:]
    ours = Resize(size, max_size=longest).output_size((h, w))
    assert ours == tuple(max(side, 1) for side in expected)


def test_resize_is_the_preprocessing_of_deployment() -> None:
    compose = Compose([{"type": "Resize", "size": [32, 48]}, {"type": "ConvertPILImage"}])
    item = compose(sample(), rng())
    assert torch.equal(item.image, compose.image_spec().resized(picture()))


def test_pad_and_crop_to_size() -> None:
    item = PadToSize([80, 50], fill=7)(sample(), rng())  # the authors' order: w, h
    assert item.image.shape == (3, 50, 80)
    assert (item.image[:, 40:] == 7).all()
    np.testing.assert_array_equal(item.boxes_xyxy, sample().boxes_xyxy)
    places = set()
    for seed in range(40):  # padded on both sides, so it lies anywhere
        item = RandomCrop([20, 90], pad_if_needed=True, fill=9)(sample(), rng(seed))
        assert item.image.shape == (3, 20, 90)
        places.add(int((item.image != 9).any(0).any(0).nonzero()[0]))
    assert min(places) < 6
    assert max(places) > 24
    assert RandomCrop(90)(sample(), rng()).image.shape == (3, 40, 60)


def test_zoom_out_shrinks_the_picture_on_its_fill() -> None:
    item = RandomZoomOut(fill=(10, 20, 30), side_range=(3, 3), p=1)(sample(), rng())
    assert item.size == (120, 180)
    assert item.image[:, 0, 0].tolist() in ([10, 20, 30], picture()[:, 0, 0].tolist())
    fill = (item.image == torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None]).all(0)
    assert 0.85 < fill.float().mean() < 0.93  # 8 of 9 parts


# Compose ---------------------------------------------------------------------------------------


def test_policy_switches_off_at_its_epoch() -> None:
    policy = {"name": "stop_epoch", "epoch": 3, "ops": ["RandomZoomOut", "RandomIoUCrop"]}
    compose = Compose(RECIPE, policy)
    assert len(compose.active(2)) == len(RECIPE)
    assert len(compose.active(3)) == len(RECIPE) - 2
    item = sample()
    item.key = SampleKey(3, 0, 0)
    kinds = {type(t).__name__ for t in compose.active(3)}
    assert "RandomPhotometricDistort" in kinds
    assert not kinds & {"RandomZoomOut", "RandomIoUCrop"}


@pytest.mark.parametrize(
    ("ops", "policy", "expected"),
    [
        ([{"type": "Resise", "size": 8}], None, "did you mean `Resize`"),
        ([{"size": 8}], None, "without `type`"),
        ([{"type": "Resize"}], None, "`Resize`: .*size"),
        ([{"type": "Resize", "size": 8, "fil": 1}], None, "`Resize`: .*fil"),
        ([{"type": "Resize", "size": [1, 2, 3]}], None, "one number"),
        ([{"type": "ConvertPILImage", "dtype": "float16"}], None, "float16"),
        ([{"type": "RandomZoomOut", "fill": 300}], None, "300"),
        (None, {"name": "stop_epok"}, "did you mean `stop_epoch`"),
        (None, {"name": "stop_epoch", "epoch": 3}, "needs `ops`"),
        (None, {"name": "stop_epoch", "epoch": "3", "ops": []}, "must be a number"),
        (None, {"name": "stop_epoch", "epoch": 3, "ops": ["Nope"]}, "unknown transform `Nope`"),
    ],
)
def test_mistakes_are_named(ops: object, policy: object, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Compose(ops, policy)  # type: ignore[arg-type]


def test_arguments_are_not_changed() -> None:
    ops = [{"type": "Resize", "size": [8, 8]}]
    Compose(ops)
    assert ops == [{"type": "Resize", "size": [8, 8]}]


def test_image_spec_of_validation_transforms() -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    compose = Compose(
        [
            {"type": "Resize", "size": [320, 640]},
            {"type": "ConvertPILImage"},
            {"type": "Normalize", "mean": mean, "std": std},
        ]
    )
    assert compose.image_spec() == ImageSpec(size=(320, 640), mean=tuple(mean), std=tuple(std))
    with pytest.raises(ConfigError, match="no image size"):
        Compose([{"type": "ConvertPILImage"}]).image_spec()
    with pytest.raises(ConfigError, match="must not be random"):
        Compose(RECIPE).image_spec()
