"""With and without OpenCV: the same results within rounding."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit.data import pixels
from detrkit.data.images import read_image
from detrkit.structures import ImageSpec
from tests.data.conftest import save_image
from tests.data.test_transforms import picture

pytestmark = pytest.mark.skipif(not pixels.HAVE_OPENCV, reason="OpenCV cannot be imported")


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], np.ndarray]], tuple]:
    """Runs a function with OpenCV and without."""

    def run(function: Callable[[], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        fast = function()
        monkeypatch.setattr(pixels, "HAVE_OPENCV", False)
        return np.asarray(fast, np.float64), np.asarray(function(), np.float64)

    return run


def image() -> np.ndarray:
    return np.ascontiguousarray(picture(37, 53).permute(1, 2, 0))


MATRIX = np.array([[0.9, 0.2, -0.1, 5], [0.0, 1.3, 0.1, -40], [0.3, 0.3, 0.3, 60]], np.float32)


@pytest.mark.parametrize(
    ("function", "largest"),
    [
        (lambda: pixels.affine(image(), MATRIX), 1),
        (lambda: pixels.mirror(image()), 0),
        (lambda: pixels.nearest(image(), (20, 31)), 0),
        (lambda: pixels.nearest(image(), (74, 106)), 0),
        (lambda: pixels.mean_luma(image()), 1),
    ],
)
def test_operations_agree(both, function, largest: float) -> None:
    fast, slow = both(function)
    assert fast.shape == slow.shape
    assert np.abs(fast - slow).max() <= largest


def test_hue_agrees_on_average(both) -> None:
    fast, slow = both(lambda: pixels.turn_hue(image(), 9))
    assert np.abs(fast - slow).mean() < 2


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("apply_exif", [True, False])
def test_reading_agrees(
    both, tmp_path: Path, orientation: int, mode: str, apply_exif: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.jpg"
    Image.fromarray(image()).convert(mode).save(path, exif=exif, quality=95)
    fast, slow = both(lambda: read_image(path, apply_exif=apply_exif).numpy())
    assert fast.shape == slow.shape
    assert np.abs(fast - slow).mean() < 1.5  # libjpeg versions smooth colour differently


def test_float_images_are_equal_bit_by_bit(both) -> None:
    batch = torch.from_numpy(np.stack([image(), image()[::-1]]))
    spec = ImageSpec(size=(37, 53), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    fast, slow = both(lambda: pixels.normalized(batch, spec).numpy())
    np.testing.assert_array_equal(fast, slow)
    np.testing.assert_array_equal(fast[0], spec.normalized(batch[0].permute(2, 0, 1)))


def test_a_machine_without_opencv(tmp_path: Path) -> None:
    """Its usual wheel fails to import where libGL is missing."""
    path = save_image(tmp_path / "x.jpg")
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "from detrkit.data import read_image, pixels\n"
        "from detrkit.data.drawings import draw\n"
        f"assert not pixels.HAVE_OPENCV and read_image({str(path)!r}).shape == (3, 40, 60)\n"
        "assert draw(0, 0, 0, 64).pixels.shape == (64, 64, 3)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
