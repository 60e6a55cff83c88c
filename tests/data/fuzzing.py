"""Damage of every kind, and what must hold whatever was damaged."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrkit.data.faults import FaultKind
from detrkit.data.index import DatasetIndex
from detrkit.errors import DataError

#: What may stand where something else should.
WEIRD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7.0, 1.5, -0.0, 1e-30, 1e30, 1e308, -1e308),
    *(float("nan"), float("inf"), -float("inf"), 2**31, 2**62, 2**63, -(2**63), 10**30, -(10**30)),
    *("", " ", "0", "1", "1.5", "nan", "1e999", "a", "a.png", "\x00", "\ud800", "a\nb", "日本"),
    *("x" * 5000, "../a.png", "/", "C:\\a.png", [], [[]], [1], [1, 2, 3, 4], ["a"] * 4, {}),
    *({"id": 1}, [{"id": 1}], [None] * 4, [1e308] * 4, [float("nan")] * 4),
)

#: Faults with which a box is left out; those of one entry are told apart by `where`.
LOST_BOXES = frozenset(
    {
        *(FaultKind.UNKNOWN_KEY, FaultKind.WRONG_TYPE, FaultKind.UNKNOWN_IMAGE),
        *(FaultKind.UNKNOWN_CLASS, FaultKind.NOT_FINITE, FaultKind.EMPTY_BOX),
        *(FaultKind.OUTSIDE, FaultKind.SKIPPED_WITH_IMAGE),
    }
)
LOST_IMAGES = frozenset(
    {FaultKind.DUPLICATE_IMAGE_ID, FaultKind.MISSING_IMAGE, FaultKind.BAD_ANNOTATION_FILE}
)


def make_images(folder: Path) -> Path:
    """a, b and c are pictures of several kinds, d is none, e is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40)).save(folder / "a.png")
    Image.new("L", (30, 20)).save(folder / "b.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 8)).save(folder / "c.png", exif=exif)
    (folder / "d.png").write_bytes(b"<html>404</html>")
    return folder


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) within nested mappings and lists."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        found.append((value, key))
        if isinstance(inner, dict | list):
            found += places(inner)
    return found


def damage_values(rng: random.Random, content: Any, weird: tuple[Any, ...] = WEIRD) -> Any:
    """A copy with a value dropped, retyped, repeated, renamed or moved."""
    content = copy.deepcopy(content)
    found = places(content)
    if not found:
        return rng.choice(weird)
    container, key = rng.choice(found)
    kind = rng.choice(["drop", "retype", "retype", "retype", "repeat", "rename", "move", "type"])
    if kind == "drop":
        del container[key]
    elif kind == "repeat" and isinstance(container, list):
        container.insert(rng.randrange(len(container) + 1), copy.deepcopy(container[key]))
    elif kind == "rename" and isinstance(container, dict):
        name = str(key)
        at = rng.randrange(len(name) + 1)
        container[name[:at] + rng.choice(["", "s", "_"]) + name[at + 1 :]] = container.pop(key)
    elif kind == "move":
        other, there = rng.choice(found)
        container[key] = copy.deepcopy(other[there])
    elif kind == "type" and isinstance(container[key], int | float):
        container[key] = rng.choice([str, float, lambda v: -v, lambda v: [v]])(container[key])
    else:
        container[key] = copy.deepcopy(rng.choice(weird))
    return content


def damage_bytes(rng: random.Random, data: bytes) -> bytes:
    """Truncated, swapped, overwritten or repeated at any place, or in another encoding."""
    if not data:
        return b"\x00"
    at, other = rng.randrange(len(data)), rng.randrange(len(data))
    kind = rng.choice(["truncate", "swap", "overwrite", "insert", "repeat", "encode"])
    if kind == "truncate":
        return data[:at]
    if kind == "swap":
        changed = bytearray(data)
        changed[at], changed[other] = changed[other], changed[at]
        return bytes(changed)
    if kind == "repeat":
        at, other = sorted((at, other))
        return data[:other] + data[at:other] + data[other:]
    if kind == "encode":
        encoding = rng.choice(["utf-8-sig", "utf-16", "utf-16-le", "gb18030", "latin-1"])
        return data.decode("utf-8", "replace").encode(encoding, "replace")
    junk = rng.choice([bytes([c]) for c in b'\x00\xff"}]{[,:9-.eN \n\\'])
    return data[:at] + junk + data[at + (kind == "overwrite") :]


def read(open_it: Callable[[], DatasetIndex], *files: Path) -> DatasetIndex | None:
    """What opening gives, once it is sure that it makes sense; None for an error that does.

    Args:
        open_it: reads the data set.
        files: an error must name one of them.
    """
    index, mistake = attempt(open_it)
    if index is not None:
        check(index)
    if mistake is not None:
        assert mistake.message.strip()
        assert "\n" not in mistake.message
        assert any(str(file) in mistake.message for file in files), mistake.message
    return index


def attempt(open_it: Callable[[], DatasetIndex]) -> tuple[DatasetIndex | None, DataError | None]:
    """What opening gives, or why it cannot be done. Any other error is a bug."""
    try:
        return open_it(), None
    except DataError as error:
        return None, error


def check(index: DatasetIndex) -> None:
    """What every index promises."""
    assert len(index) > 0
    assert (index.sizes > 0).all()
    assert len({index.image_id(i) for i in range(len(index))}) == len(index)
    assert index.offsets[0] == 0
    assert (np.diff(index.offsets) >= 0).all()
    assert index.offsets[-1] == index.num_boxes
    assert len(set(index.annotation_ids.tolist())) == index.num_boxes
    assert np.isfinite(index.boxes_xyxy).all()
    assert np.isfinite(index.area).all()
    assert (index.area > 0).all()
    limits = np.repeat(index.sizes[:, ::-1], np.diff(index.offsets), axis=0) + 1.001
    assert (index.boxes_xyxy[:, :2] >= -1.001).all()
    assert (index.boxes_xyxy[:, 2:] <= limits).all()
    assert (index.boxes_xyxy[:, 2:] >= index.boxes_xyxy[:, :2]).all()
    assert ((index.labels >= 0) & (index.labels < len(index.class_map))).all()
    for line in (str(fault) for fault in index.faults):
        assert line.strip()
        assert "\n" not in line
        assert len(line) < 1500


def lost_boxes(index: DatasetIndex) -> int:
    """Boxes that were left out, by the counts of the faults."""
    return sum(
        fault.count
        for fault in index.faults
        if fault.kind in LOST_BOXES and not fault.where.startswith("images[")
    )


def lost_images(index: DatasetIndex) -> int:
    """Images that were left out, by the counts of the faults."""
    return sum(
        fault.count
        for fault in index.faults
        if fault.kind in LOST_IMAGES
        or (fault.kind is FaultKind.WRONG_TYPE and fault.where.startswith("images["))
        or (fault.kind is FaultKind.CORRUPT_IMAGE and fault.detail.startswith("skipped"))
    )
