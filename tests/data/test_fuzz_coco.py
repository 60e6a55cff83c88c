"""Damaged COCO files: an error of one line, or an index in which every entry is accounted for."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.data.coco import read_coco
from detrkit.data.detect import open_dataset
from detrkit.data.index import DatasetIndex
from detrkit.data.text import read_json
from detrkit.errors import DataError
from tests.data.fuzzing import (
    damage_bytes,
    damage_values,
    lost_boxes,
    lost_images,
    make_images,
    read,
)
from tests.data.test_index import columns

SIZES = {"a": (40, 60), "b": (20, 30), "c": (8, 16), "d": (9, 9), "e": (5, 5)}


pytestmark = pytest.mark.usefixtures("silence")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    make_images(root / "images")
    return root


def data_set(rng: random.Random) -> dict[str, Any]:
    """A valid file, its lists in any order."""
    names = rng.sample(sorted(SIZES), rng.randint(1, 4))
    kind = rng.choice([int, int, str])
    images: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        entry = {"id": kind(3 * number + 1), "file_name": f"{name}.png"}
        h, w = SIZES[name]
        images.append(entry | rng.choice([{}, {"height": h, "width": w}]))
    categories = [{"id": kind(5 * i), "name": rng.choice(["cat", "日"]) + str(i)} for i in range(2)]
    annotations = []
    for number in range(rng.randint(0, 8)):
        x, y = rng.randint(0, 30), round(rng.random() * 10, 2)
        annotations.append(
            {
                "id": number,
                "image_id": rng.choice(images)["id"],
                "category_id": rng.choice(categories)["id"],
                "bbox": [x, y, rng.randint(1, 30), 2.5],
                "area": 7,
                "iscrowd": rng.choice([0, 0, 1]),
                "segmentation": [[x, y, x + 1, y]],
            }
        )
    lists: list[tuple[str, Any]] = [
        ("images", images),
        ("annotations", annotations),
        ("categories", categories),
        ("info", {"images": [{}]}),
    ]
    rng.shuffle(lists)
    return dict(lists)


def damaged(rng: random.Random) -> bytes:
    content: Any = data_set(rng)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
        content = damage_values(rng, content)
    options = {"indent": rng.choice([None, None, 0, 1]), "ensure_ascii": rng.random() < 0.5}
    data = json.dumps(content, **options).encode("utf-8", "surrogatepass")
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        data = damage_bytes(rng, data)
    return data


def parsed(path: Path) -> Any:
    try:
        return read_json(path)
    except DataError:
        return None


def one(folder: Path, rng: random.Random) -> None:
    path = folder / "annotations.json"
    path.write_bytes(damaged(rng))
    policy = rng.choice(["auto", "sample"])
    index = read(lambda: read_coco(path, folder / "images", check_images=policy), path)
    content = parsed(path)
    if index is None:
        return
    assert content is not None
    assert index.num_boxes + lost_boxes(index) == len(content["annotations"])
    assert len(index) + lost_images(index) == len(content["images"])


class Strange(msgspec.Struct):
    """What no entry is, so that Python's own parser reads them all."""

    never: Literal["never"]


def in_pieces(folder: Path, rng: random.Random) -> None:
    """Read in pieces of a few bytes, or without the fast parser: the same."""
    path = folder / "annotations.json"
    path.write_bytes(damaged(rng))

    def opened(changes: dict[str, Any]) -> DatasetIndex:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in changes.items():
                patch.setattr(f"detrkit.data.{name}", value)
            return read_coco(path, folder / "images")

    slow = msgspec.json.Decoder(list[Strange])
    found = [
        read(lambda changes=changes: opened(changes), path)  # type: ignore[misc]
        for changes in (
            {},
            {"json_stream.BLOCK": rng.randint(1, 400)},
            {"coco.IMAGES": slow, "coco.ANNOTATIONS": slow},
        )
    ]
    if found[0] is None:
        assert found == [None] * 3
        return
    tables = [columns(index) for index in found if index is not None]
    faults = [Counter(map(str, table.pop("faults"))) for table in tables]  # type: ignore[call-overload]
    assert tables == [tables[0]] * 3
    assert faults == [faults[0]] * 3


def through_detection(folder: Path, rng: random.Random) -> None:
    """As the command line opens it, with and without looking at pictures."""
    path = folder / "instances_val.json"
    path.write_bytes(damaged(rng))
    read(lambda: open_dataset(path, check_images=rng.choice(["none", "auto"])), path)


@settings(max_examples=300)
@given(st.randoms(use_true_random=True))
def test_every_entry_is_accounted_for(folder: Path, rng: random.Random) -> None:
    one(folder, rng)


@settings(max_examples=200)
@given(st.randoms(use_true_random=True))
def test_pieces_give_the_whole(folder: Path, rng: random.Random) -> None:
    in_pieces(folder, rng)


@settings(max_examples=100)
@given(st.randoms(use_true_random=True))
def test_any_file_opens_or_says_why(folder: Path, rng: random.Random) -> None:
    through_detection(folder, rng)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("check", [one, in_pieces, through_detection])
@settings(max_examples=10_000)
@given(rng=st.randoms(use_true_random=True))
def test_many_more(folder: Path, check: Any, rng: random.Random) -> None:
    check(folder, rng)
