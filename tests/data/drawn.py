"""Pictures that are drawn for a test, and what is read of them."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from detrkit.data.images import read_image

RED, GREEN, BLUE = (200, 40, 30), (20, 180, 60), (10, 60, 220)


def pillow(path: Path) -> np.ndarray:
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore")  # damaged EXIF
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.int16)


def ours(path: Path, **options: Any) -> np.ndarray:
    image = read_image(path, **options)
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    return image.permute(1, 2, 0).numpy().astype(np.int16)


def stripes(mode: str = "RGB") -> Image.Image:
    """Three vertical stripes, red, green and blue, 8 x 24 pixels."""
    values = np.repeat(np.array([[RED, GREEN, BLUE]], np.uint8), 8, axis=1)
    return Image.fromarray(np.repeat(values, 8, axis=0)).convert(mode)


def colours(image: np.ndarray) -> list[list[int]]:
    """In the middle of the stripes."""
    return [image[4, x].tolist() for x in (4, 12, 20)]


def near(found: list[list[int]], tolerance: int = 0) -> bool:
    return np.abs(np.array(found) - np.array([RED, GREEN, BLUE])).max() <= tolerance


def without_segment(data: bytes, marker: int) -> bytes:
    """A JPEG without one of its application segments."""
    at, kept = 2, [data[:2]]
    while data[at + 1] != 0xDA:
        length = 2 + struct.unpack_from(">H", data, at + 2)[0]
        if data[at + 1] != marker:
            kept.append(data[at : at + length])
        at += length
    return b"".join([*kept, data[at:]])


def png(size: tuple[int, int], depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG of any depth and kind, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", size[1], size[0], depth, kind, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )
