"""Damaged YOLO data sets: an error of one line, or an index in which every line is counted."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.data.detect import open_dataset
from detrkit.data.faults import FaultKind
from detrkit.data.text import read_text
from detrkit.errors import DataError
from tests.data.fuzzing import (
    WEIRD,
    damage_bytes,
    damage_values,
    lost_boxes,
    lost_images,
    make_images,
    read,
)

WORDS = (
    *("nan", "inf", "-inf", "1e999", "-1", "0", "1", "2.5", "99999999999999999999", "-0"),
    *("", "x", "0x1", "1_0", "½", "١", "1,5", "0.5 0.5", "# note", "\x00", "\x85", "\u2028"),
)
NAMES = "abcde"


pytestmark = pytest.mark.usefixtures("silence")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("yolo") / "some" / "set"  # a path may lead upwards
    make_images(root / "images/train")
    (root / "labels/train").mkdir(parents=True)
    return root


def line(rng: random.Random) -> str:
    corners = rng.choice([4, 4, 4, 6, 10])
    return " ".join([str(rng.randrange(3)), *(f"{rng.random():.3f}" for _ in range(corners))])


def damaged(rng: random.Random) -> bytes:
    """A label file."""
    lines = [line(rng) for _ in range(rng.randint(0, 4))]
    for _ in range(rng.choice([0, 1, 2]) if lines else 0):
        at = rng.randrange(len(lines))
        words = lines[at].split(" ")
        place = rng.randrange(len(words))
        words[place : place + rng.choice([0, 1, 1, 2])] = [rng.choice(WORDS)]
        lines[at] = rng.choice([" ", " ", "\t", "  "]).join(words)
    data = rng.choice(["\n", "\r\n", "\n\n"]).join(lines).encode()
    for _ in range(rng.choice([0, 0, 1, 2])):
        data = damage_bytes(rng, data)
    return data


def given_lines(file: Path) -> int:
    """Lines of a label file that could be boxes."""
    if not file.is_file():
        return 0
    try:
        return sum(bool(line.strip()) for line in read_text(file).splitlines())
    except DataError:
        return 0


def labels(root: Path, rng: random.Random) -> None:
    files = [root / f"labels/train/{name}.txt" for name in (*NAMES, "stray")]
    for file in files:
        file.unlink(missing_ok=True)
        if rng.random() < 0.7:
            file.write_bytes(damaged(rng))
    (root / "data.yaml").write_text(
        "train: images/train\nnames: [cat, dog, 日]\n", encoding="utf-8"
    )
    index = read(lambda: open_dataset(root, "train"), root / "data.yaml")
    assert index is not None
    assert len(index) + lost_images(index) == 4 + lost_labels(index)
    assert index.num_boxes + lost_boxes(index) == sum(map(given_lines, files[:4]))


def lost_labels(index: Any) -> int:
    """Unreadable label files: their images stay, as background."""
    return index.faults.counts.get(FaultKind.BAD_ANNOTATION_FILE, 0)


def head(root: Path, rng: random.Random) -> None:
    """A damaged data.yaml."""
    content: Any = {
        "path": rng.choice([".", "", None, "/nowhere"]),
        "train": rng.choice(["images/train", ["images/train"], "train.txt", "../images/train"]),
        "val": rng.choice(["images/val", "images/train", []]),
        "nc": 3,
        "names": rng.choice([["cat", "dog", "日"], {0: "cat", 1: "dog", 2: "日"}]),
    }
    for _ in range(rng.choice([0, 1, 2])):
        content = damage_values(rng, content, tuple(v for v in WEIRD if v != "/"))
    data = yaml.safe_dump(content, allow_unicode=rng.random() < 0.5).encode("utf-8", "replace")
    for _ in range(rng.choice([0, 1])):
        data = damage_bytes(rng, data)
    path = root / "data.yaml"
    path.write_bytes(data)
    lines = b"images/train/a.png\n./images/train/b.png\n"
    (root / "train.txt").write_bytes(damage_bytes(rng, lines) if rng.random() < 0.5 else lines)
    (root / "labels/train/a.txt").write_bytes(damaged(rng))
    read(lambda: open_dataset(path), path, root / "train.txt")
    read(lambda: open_dataset(root), path, root)


@settings(max_examples=200)
@given(st.randoms(use_true_random=True))
def test_every_line_is_accounted_for(root: Path, rng: random.Random) -> None:
    labels(root, rng)


@settings(max_examples=100)
@given(st.randoms(use_true_random=True))
def test_any_yaml_opens_or_says_why(root: Path, rng: random.Random) -> None:
    head(root, rng)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("check", [labels, head])
@settings(max_examples=10_000)
@given(rng=st.randoms(use_true_random=True))
def test_many_more(root: Path, check: Any, rng: random.Random) -> None:
    check(root, rng)
