"""Preprocessing: Pillow's filter bit for bit, and boxes back to pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit.structures import ImageSpec
from detrkit.structures.image_spec import stretched


@pytest.mark.parametrize("shape", [(37, 53), (480, 640), (33, 700), (1, 1), (320, 320)])
@pytest.mark.parametrize("size", [(320, 320), (64, 96)])
def test_stretched_is_pillows(shape: tuple[int, int], size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    expected = np.array(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    for given in (image, image.contiguous()):  # channels last in memory, as decoded, or first
        assert np.array_equal(stretched(given, size).permute(1, 2, 0).numpy(), expected)
        assert torch.equal(ImageSpec(size).resized(given), stretched(given, size))


def test_a_letterbox_keeps_the_shape() -> None:
    spec = ImageSpec((64, 64), resize="letterbox", pad_value=7)
    image = torch.full((3, 20, 40), 200, dtype=torch.uint8)
    prepared = spec.resized(image)
    assert spec.content_size((20, 40)) == (32, 64)
    assert (prepared[:, :32] == 200).all()
    assert (prepared[:, 32:] == 7).all()
    boxes = spec.restore_boxes(torch.tensor([[0.5, 0.25, 1.0, 0.5]]), (20, 40))
    assert boxes.tolist() == [[0, 0, 40, 20]]


def test_normalised() -> None:
    spec = ImageSpec((2, 2), channels="bgr", mean=(0.5, 0, 0), std=(1, 1, 2))
    image = torch.tensor([255, 0, 51], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 2)
    assert spec.prepare(image)[:, 0, 0].tolist() == pytest.approx([0.2 - 0.5, 0, 0.5])
    assert ImageSpec.from_dict(spec.to_dict()) == spec
