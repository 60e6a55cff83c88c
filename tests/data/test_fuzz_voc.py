"""Damaged VOC data sets: an error of one line, or an index in which every object is counted."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.data.detect import open_dataset
from detrkit.data.text import read_xml
from detrkit.errors import DataError
from tests.data.fuzzing import damage_bytes, lost_boxes, lost_images, make_images, read

SIZES = {"a": (40, 60), "b": (20, 30), "c": (16, 8), "d": (9, 9), "e": (5, 5)}
WORDS = (
    *("", " ", "nan", "inf", "-inf", "1e999", "-5", "0", "1.5", "9" * 400, "x", "½", "cat", "日"),
    *("a.png", "../a.png", "C:\\a.png", "&amp;", "&lt;", "<b/>", "<!-- -->", "\n"),
)


pytestmark = pytest.mark.usefixtures("silence")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("voc")
    make_images(root / "JPEGImages")
    (root / "Annotations").mkdir()
    (root / "ImageSets/Main").mkdir(parents=True)
    return root


def document(rng: random.Random, name: str) -> bytes:
    """An annotation file."""
    h, w = SIZES[name]
    parts = [
        "<annotation>",
        f"<filename>{name}.png</filename>",
        rng.choice(["", f"<size><width>{w}</width><height>{h}</height></size>"]),
    ]
    for _ in range(rng.randint(0, 4)):
        x, y = rng.randint(0, 4), rng.randint(0, 4)
        parts += [
            "<object>",
            f"<name>{rng.choice(['cat', 'dog', '日'])}</name>",
            "<bndbox>",
            *(f"<xmin>{x}</xmin>", f"<ymin>{y}</ymin>"),
            *(f"<xmax>{x + 3}</xmax>", f"<ymax>{y + 2}</ymax>"),
            "</bndbox>",
            "</object>",
        ]
    parts.append("</annotation>")
    for _ in range(rng.choice([0, 0, 1, 2])):
        at = rng.randrange(len(parts))
        opened, _, rest = parts[at].partition(">")
        kind = rng.choice(["drop", "value", "value", "value", "repeat", "junk", "rename"])
        if kind == "drop":
            del parts[at]
        elif kind == "value" and "</" in rest:
            parts[at] = f"{opened}>{rng.choice(WORDS)}</{opened[1:]}>"
        elif kind == "repeat":
            parts.insert(at, parts[rng.randrange(len(parts))])
        elif kind == "rename":
            parts[at] = parts[at].replace("m", "")
        else:
            parts.insert(at, rng.choice(WORDS))
    encoding = rng.choice(["utf-8", "utf-8", "gb2312", "utf-16", "klingon"])
    said = "" if encoding == "utf-8" else f'<?xml version="1.0" encoding="{encoding}"?>'
    text = said + rng.choice(["", "\n"]).join(parts)
    data = text.encode(encoding if encoding != "klingon" else "utf-8", "replace")
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        data = damage_bytes(rng, data)
    return data


def given_objects(file: Path) -> int:
    """Objects in a file, as far as it is XML."""
    try:
        return sum(1 for _ in read_xml(file).iter("object"))
    except DataError:
        return 0


def objects(root: Path, rng: random.Random) -> None:
    """Damaged annotation files."""
    files = [root / f"Annotations/{name}.xml" for name in "abcde"]
    for file in files:
        file.write_bytes(document(rng, file.stem))
    (root / "ImageSets/Main/train.txt").unlink(missing_ok=True)
    (root / "labels.txt").unlink(missing_ok=True)
    if rng.random() < 0.5:
        (root / "labels.txt").write_text("cat\ndog\n日\n", encoding="utf-8")
    index = read(lambda: open_dataset(root, "train"), root)
    if index is not None:
        assert len(index) + lost_images(index) == len(files)
        assert index.num_boxes + lost_boxes(index) == sum(map(given_objects, files))


def lists(root: Path, rng: random.Random) -> None:
    """Damaged lists of images and of classes."""
    for name in "abcd":
        (root / f"Annotations/{name}.xml").write_bytes(document(rng, name))
    for file, text in {
        "ImageSets/Main/train.txt": "a\nb 1\nc.png -1\ne\n",
        "labels.txt": "cat\n日",
    }.items():
        data = text.encode()
        for _ in range(rng.choice([0, 1, 2])):
            data = damage_bytes(rng, data)
        (root / file).write_bytes(data)
    read(lambda: open_dataset(root, "train"), root)


@settings(max_examples=150)
@given(st.randoms(use_true_random=True))
def test_every_object_is_accounted_for(root: Path, rng: random.Random) -> None:
    objects(root, rng)


@settings(max_examples=50)
@given(st.randoms(use_true_random=True))
def test_any_list_opens_or_says_why(root: Path, rng: random.Random) -> None:
    lists(root, rng)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("check", [objects, lists])
@settings(max_examples=10_000)
@given(rng=st.randoms(use_true_random=True))
def test_many_more(root: Path, check: Any, rng: random.Random) -> None:
    check(root, rng)
