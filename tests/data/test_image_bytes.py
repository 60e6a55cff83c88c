"""Content in memory is read as a file of the same content is, or refused for the same reason."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit.data.image_bytes import ImageBytes, ImageFile
from detrkit.data.images import read_header, read_image
from detrkit.data.unreadable import TooManyPixels
from detrkit.errors import DataError
from tests.data.conftest import save_image


def outcome(file: ImageFile) -> tuple[object, ...]:
    try:
        image = read_image(file)
    except DataError as error:
        return (type(error), error.message.partition(": ")[2])
    return image.dtype, tuple(image.shape), image.numpy().tobytes(), read_header(file)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "gif", "npy"])
def test_as_a_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "npy":
        np.save(path, np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    else:
        save_image(path)
    content = path.read_bytes()
    assert torch.equal(read_image(ImageBytes(content)), read_image(path))
    assert read_header(ImageBytes(content)) == read_header(path)
    cut = tmp_path / "cut"
    cut.write_bytes(content[: len(content) // 2])
    assert outcome(ImageBytes(cut.read_bytes())) == outcome(cut)


def test_hostile_files(shared_data: Callable[[str], Path]) -> None:
    for path in sorted((shared_data("hostile_images") / "files").iterdir()):
        assert outcome(ImageBytes(path.read_bytes(), str(path))) == outcome(path), path.name


def test_messages_name_it() -> None:
    with pytest.raises(DataError, match=r"photo\.jpg: the file is empty"):
        read_image(ImageBytes(b"", "photo.jpg"))
    with pytest.raises(DataError, match="the image: not an image"):
        read_header(ImageBytes(b"no"))


def test_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("1", (200, 100)).save(file, "PNG")
    monkeypatch.setenv("DETRKIT_MAX_PIXELS", "19999")
    for read in (read_header, read_image):
        with pytest.raises(TooManyPixels):
            read(ImageBytes(file.getvalue()))  # type: ignore[operator]


def test_postscript_is_not_run() -> None:
    """Pillow would hand it to Ghostscript."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "EPS")
    with pytest.raises(DataError, match="not an image"):
        read_image(ImageBytes(file.getvalue()))
