"""Images of any number of channels through transforms, mixing and batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detrkit.data import BatchImageCollateFunction, Compose, DetectionDataset, build_loader, pixels
from detrkit.data.bands import as_pixels
from detrkit.data.canvas import Canvas
from detrkit.data.coco import read_coco
from detrkit.data.sample import Sample, SampleKey
from detrkit.data.transforms import Mosaic, Normalize, RandomPhotometricDistort, RandomZoomOut
from detrkit.data.transforms.color import Gain
from detrkit.errors import ConfigError
from detrkit.structures import ImageSpec
from tests.data.conftest import CocoMaker, box
from tests.data.test_transforms import RECIPE, picture

KINDS = [(1, "uint8"), (2, "float32"), (3, "float32"), (4, "uint8"), (5, "float32"), (70, "uint8")]

GEOMETRY = [op for op in RECIPE if op["type"] != "RandomPhotometricDistort"]


def bands(channels: int, dtype: str = "uint8", **kwargs: int) -> torch.Tensor:
    """RGB, again and again, as so many channels; channels last in memory."""
    image = picture(**kwargs)[[i % 3 for i in range(channels)]]
    image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return image if dtype == "uint8" else image.float()


def sample(image: torch.Tensor, *, exact: bool = False, index: int = 0) -> Sample:
    boxes = np.array([(10, 5, 30, 20), (40, 25, 58, 39)], np.float32)
    return Sample(
        Canvas.of(image, exact=exact), boxes, np.arange(2), orig_size=(40, 60),
        key=SampleKey(0, 0, index),
    )  # fmt: skip


class TestTransforms:
    @pytest.mark.parametrize(("channels", "dtype"), KINDS)
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("exact", [True, False])
    def test_geometry_does_with_each_band_what_it_does_with_rgb(
        self, channels: int, dtype: str, seed: int, exact: bool
    ) -> None:
        recipe = Compose(GEOMETRY)
        rgb = recipe(sample(bands(3), exact=exact), np.random.default_rng(seed))
        other = recipe(sample(bands(channels, dtype), exact=exact), np.random.default_rng(seed))
        np.testing.assert_array_equal(other.boxes_xyxy, rgb.boxes_xyxy)
        assert other.image.shape == (channels, 48, 80)
        assert str(other.image.dtype) == f"torch.{dtype}"
        expected = rgb.image[[i % 3 for i in range(channels)]].float()
        assert (other.image.float() - expected).abs().max() <= 1.01

    @pytest.mark.parametrize(("channels", "dtype"), KINDS)
    @pytest.mark.parametrize("opencv", [True, False])
    def test_mosaics(
        self, channels: int, dtype: str, opencv: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pixels, "HAVE_OPENCV", opencv and pixels.HAVE_OPENCV)
        mosaic = Mosaic(output_size=32, rotation_range=20, fill_value=90)
        rgb = mosaic(sample(bands(3)), np.random.default_rng(1))
        other = mosaic(sample(bands(channels, dtype)), np.random.default_rng(1))
        np.testing.assert_array_equal(other.boxes_xyxy, rgb.boxes_xyxy)
        expected = rgb.image[[i % 3 for i in range(channels)]].float()
        assert other.image.shape == expected.shape
        difference = (other.image.float() - expected).abs()
        # in bytes, the two ways round the places of pixels differently
        assert difference.mean() < 0.5
        assert difference.max() <= 4

    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    @pytest.mark.parametrize("seed", range(8))
    def test_colours_change_in_brightness_and_contrast_only(self, dtype: str, seed: int) -> None:
        """Each band is a straight line of what it was, the same slope for all."""
        image = (bands(4, dtype) / 3 + 60).to(getattr(torch, dtype))  # brightness does not clip it
        changed = RandomPhotometricDistort(p=0.7)(sample(image), np.random.default_rng(seed)).image
        slopes = []
        for before, after in zip(image.float().flatten(1), changed.float().flatten(1), strict=True):
            inside = (after > 1) & (after < 254) if dtype == "uint8" else after == after
            slope, offset = np.polyfit(before[inside].double(), after[inside].double(), 1)
            slopes.append(slope)
            line = slope * before[inside] + offset
            assert (line - after[inside]).abs().max() <= (1.6 if dtype == "uint8" else 1e-2)
        assert np.ptp(slopes) < 0.02
        assert 0.4 < slopes[0] < 1.7

    def test_contrast_turns_about_each_bands_mean(self) -> None:
        image = np.dstack([np.full((4, 4), 10.0), np.full((4, 4), 200.0)]).astype(np.float32)
        means = image.mean(axis=(0, 1))
        np.testing.assert_allclose(Gain.contrast(0.5, means)(image), image, rtol=1e-6)
        image[0] += 8
        changed = Gain.contrast(0.5, image.mean(axis=(0, 1)))(image)
        np.testing.assert_allclose(changed.mean(axis=(0, 1)), image.mean(axis=(0, 1)), rtol=1e-5)
        np.testing.assert_allclose(changed[0] - changed[1], 4, rtol=1e-4)

    def test_bytes_are_rounded_and_clipped(self) -> None:
        image = np.array([[[0, 3, 255, 99]]], np.uint8)
        np.testing.assert_array_equal(Gain(1.5, np.zeros(1))(image), [[[0, 4, 255, 148]]])

    def test_fill_of_one_value_and_of_one_per_channel(self) -> None:
        for fill, expected in ((7, [7] * 4), ([1, 2, 3, 4], [1, 2, 3, 4]), ([9, 9, 9], [9] * 4)):
            zoom = RandomZoomOut(fill=fill, side_range=(3.0, 3.0), p=1.0)
            image = zoom(sample(bands(4)), np.random.default_rng(0)).image
            corners = image[:, [0, 0, -1, -1], [0, -1, 0, -1]]
            shown = [tuple(corner.tolist()) for corner in corners.T]
            assert tuple(expected) in shown

    def test_values_for_another_number_of_channels_are_named(self) -> None:
        for op in (
            {"type": "Normalize", "mean": [0.5] * 3, "std": [0.2] * 3},
            {"type": "RandomZoomOut", "fill": [1, 2, 3]},
            {"type": "Mosaic", "fill_value": [1, 2, 3]},
        ):
            compose = Compose([op])
            compose.check_channels(3)
            with pytest.raises(
                ConfigError, match=f"{op['type']}: .* 3 values, but in_channels is 4"
            ):
                compose.check_channels(4)
        with pytest.raises(ConfigError, match="mean has 3 values, but in_channels is 4"):
            ImageSpec((8, 8), mean=(0.1, 0.2, 0.3), in_channels=4)


class TestImageSpec:
    @pytest.mark.parametrize(("channels", "dtype"), KINDS)
    @pytest.mark.parametrize("resize", ["stretch", "letterbox"])
    def test_each_channel_as_that_of_rgb(self, channels: int, dtype: str, resize: Any) -> None:
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        repeat = [i % 3 for i in range(channels)]
        rgb = ImageSpec((24, 24), resize, mean=mean, std=std)
        spec = ImageSpec(
            (24, 24), resize, mean=tuple(mean[i] for i in repeat),
            std=tuple(std[i] for i in repeat), in_channels=channels,
        )  # fmt: skip
        image = bands(channels, dtype)
        kept = image.clone()
        difference = spec.prepare(image) - rgb.prepare(bands(3))[repeat]
        level = 1 / 255 / 0.224  # bytes are rounded after each of two passes
        assert difference.abs().max() <= (1.01 * level if dtype == "float32" else 0)
        assert torch.equal(image, kept)
        assert spec == ImageSpec.from_dict(spec.to_dict())

    def test_one_value_stands_for_all_channels(self) -> None:
        spec = ImageSpec((4, 4), mean=(0.5,), in_channels=5)
        assert spec.mean == (0.5,) * 5
        assert spec.std == (1.0,) * 5
        old = ImageSpec((4, 4)).to_dict()
        del old["in_channels"]  # of a checkpoint from before
        assert ImageSpec.from_dict(old).in_channels == 3

    def test_floats_of_the_caller_are_not_normalised_in_place(self) -> None:
        image = torch.full((4, 2, 2), 255.0)
        assert ImageSpec((2, 2), in_channels=4).normalized(image).max() == 1
        assert image.min() == 255


class TestBatches:
    @pytest.mark.parametrize(("channels", "dtype"), KINDS)
    @pytest.mark.parametrize("mixing", ["mixup", "copyblend"])
    def test_mixing(self, channels: int, dtype: str, mixing: str) -> None:
        options: dict[str, Any] = {f"{mixing}_prob": 1.0, f"{mixing}_epochs": [0, 9]}
        collate = BatchImageCollateFunction(base_size=64, base_size_repeat=1, **options)
        repeat = [i % 3 for i in range(channels)]
        rgb = collate([sample(bands(3, seed=i), index=i) for i in range(3)])
        other = collate([sample(bands(channels, dtype, seed=i), index=i) for i in range(3)])
        assert other.images.shape == (3, channels, *rgb.images.shape[-2:])
        assert (other.images - rgb.images[:, repeat]).abs().max() <= 1

    def test_bytes_and_floats_in_one_batch(self) -> None:
        collate = BatchImageCollateFunction(mixup_prob=1.0, mixup_epochs=[0, 9])
        alike = collate([sample(bands(4, seed=i)) for i in range(2)])
        mixed = collate(
            [sample(bands(4, ("uint8", "float32")[i], seed=i)) for i in range(2)]
        )  # fmt: skip
        assert (alike.images - mixed.images).abs().max() <= 1

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_data_set_of_arrays(
        self, make_coco: CocoMaker, tmp_path: Path, dtype: str, workers: int
    ) -> None:
        names = [f"{i}.npy" for i in range(4)]
        entries = [{"id": i, "file_name": n, "height": 8, "width": 12} for i, n in enumerate(names)]
        boxes = [box(i + 1, image=i, bbox=[1, 1, 5, 5]) for i in range(4)]
        annotations = make_coco(boxes, entries, files=False)
        folder = tmp_path / "images" / "train"
        folder.mkdir(parents=True)
        arrays = [
            (np.arange(8 * 12 * 5).reshape(8, 12, 5) % 97 + i).astype(dtype) for i in range(3)
        ]
        for name, array in zip(names, arrays, strict=False):
            np.save(folder / name, array)
        (folder / "3.npy").write_bytes(b"\x93NUMPY broken")
        ops = [
            {"type": "ConvertPILImage"},
            {"type": "Normalize", "mean": [0.1] * 5, "std": [2] * 5},
        ]
        data = DetectionDataset(
            read_coco(annotations, folder), Compose(ops), training=False, in_channels=5
        )
        (batch,) = build_loader(data, batch_size=4, shuffle=False, num_workers=workers)
        assert batch.images.shape == (4, 5, 8, 12)
        for image, array in zip(batch.images, arrays, strict=False):
            expected = (as_pixels(array) / 255 - 0.1) / 2
            np.testing.assert_allclose(image.permute(1, 2, 0), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch.images[3], (114 / 255 - 0.1) / 2, rtol=1e-5)  # unreadable
        assert int(data.broken.count_nonzero()) == 1


OPERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mirror": pixels.mirror,
    "nearest": lambda image: pixels.nearest(image, (20, 31)),
    "blend": lambda image: pixels.blend(image, image[::-1].copy(), 0.3),
    "warp": lambda image: pixels.warp(
        image, np.array([[0.9, 0.2, 3], [-0.1, 1.1, -2]]), (30, 40), (50,)
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("channels", "dtype"), KINDS)
@pytest.mark.parametrize("opencv", [True, False])
def test_operations_on_bands_equal_those_on_rgb(
    name: str, channels: int, dtype: str, opencv: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "HAVE_OPENCV", opencv and pixels.HAVE_OPENCV)
    rgb = np.ascontiguousarray(bands(3).permute(1, 2, 0))
    other = np.ascontiguousarray(bands(channels, dtype).permute(1, 2, 0))
    found = OPERATIONS[name](other)
    expected = OPERATIONS[name](rgb)[..., [i % 3 for i in range(channels)]]
    assert found.dtype == dtype
    assert found.shape == expected.shape
    assert found.flags.c_contiguous
    assert np.abs(found.astype(np.float64) - expected).max() <= (4 if name == "warp" else 1)


def test_normalize_takes_any_number_of_values() -> None:
    assert Normalize([0.1] * 5, [0.2] * 5).mean == (0.1,) * 5
    for mean, std in (([], []), ([0.1], [0.2, 0.3])):
        with pytest.raises(ValueError, match="value per channel"):
            Normalize(mean, std)
    with pytest.raises(ValueError, match="must be positive"):
        Normalize([0.1], [0.0])
