from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from detrkit.analysis.duplicates import MAX_DISTANCE
from detrkit.analysis.hashing import hamming, near_pairs, perceptual_hash
from detrkit.analysis.pictures import gray_of
from detrkit.data.drawings import draw

HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=12)


@given(HASHES, HASHES)
def test_hamming(a: list[int], b: list[int]) -> None:
    count = min(len(a), len(b))
    found = hamming(np.array(a[:count], np.uint64), np.array(b[:count], np.uint64))
    assert found.tolist() == [(x ^ y).bit_count() for x, y in zip(a, b, strict=False)]


@given(HASHES, st.lists(st.tuples(st.integers(0, 11), st.integers(0, 63)), max_size=40),
       st.integers(0, 9))  # fmt: skip
def test_near_pairs(seeds: list[int], flips: list[tuple[int, int]], distance: int) -> None:
    # copies of a few hashes with bits turned over, so that there are near ones
    hashes = [value ^ (1 << bit) for value in seeds[:3] for _, bit in flips[:6]] + seeds
    first, second = near_pairs(np.array(hashes, np.uint64), distance)
    found = list(zip(first.tolist(), second.tolist(), strict=True))
    expected = {
        (i, j)
        for j in range(len(hashes))
        for i in range(j)
        if (hashes[i] ^ hashes[j]).bit_count() <= distance
    }
    assert len(found) == len(expected)
    assert set(found) == expected


def picture(number: int) -> Image.Image:
    return Image.fromarray(draw(0, 0, number, 256).pixels)


def hashes_of(pictures: list[Image.Image], folder: Path, **options: object) -> np.ndarray:
    suffix = "png" if not options else "jpg"
    grays = []
    for number, image in enumerate(pictures):
        path = folder / f"{number}.{suffix}"
        image.save(path, **options)
        grays.append(gray_of(str(path)))
    return perceptual_hash(np.stack(grays))


def test_pictures_of_bands_are_seen_too(tmp_path: Path) -> None:
    rgb = np.asarray(picture(3)).astype(np.uint16) * 257
    np.save(tmp_path / "bands.npy", np.dstack([rgb, rgb[..., :1]]))
    np.save(tmp_path / "more.npy", np.dstack([rgb, rgb]))
    grays = np.stack([gray_of(str(tmp_path / name)) for name in ("bands.npy", "more.npy")])
    assert grays.std() > 20
    first, second = perceptual_hash(grays)
    assert first == second


@pytest.fixture(scope="module")
def originals() -> list[Image.Image]:
    return [picture(number) for number in range(30)]


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.resize((128, 128), Image.Resampling.BICUBIC),
        lambda p: p.resize((700, 500), Image.Resampling.BILINEAR),
        lambda p: ImageEnhance.Brightness(p).enhance(0.8),
        lambda p: ImageEnhance.Contrast(p).enhance(0.7),
        lambda p: p.convert("L"),
        lambda p: jpeg(p, 25),
    ],
    ids=["half", "stretched", "darker", "flatter", "grey", "jpeg25"],
)
def test_copies_keep_their_hash(originals: list[Image.Image], tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    before = hashes_of(originals, tmp_path)
    after = hashes_of([change(p) for p in originals], tmp_path, quality=85)
    # pictures that are nearly one colour leave their smallest bits to chance
    assert (hamming(before, after) <= MAX_DISTANCE).mean() > 0.9


def test_different_pictures_differ(originals: list[Image.Image], tmp_path: Path) -> None:
    hashes = hashes_of(originals, tmp_path)
    first, _ = near_pairs(hashes, MAX_DISTANCE)
    assert not len(first)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)
