"""Whether two data sets say the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from detrkit.data import DatasetIndex, open_splits

Content = dict[str, tuple[tuple[int, int], list[tuple[str, bool, np.ndarray]]]]


def content(index: DatasetIndex, *, flags: bool = True) -> Content:
    """{image's file name: (size, sorted boxes with class name and crowd flag)}."""
    found: Content = {}
    for row, path in enumerate(index.paths):
        rows = range(*index.boxes_of(row).indices(index.num_boxes))
        boxes = [
            (
                index.class_map.names[index.labels[r]],
                flags and bool(index.iscrowd[r]),
                index.boxes_xyxy[r].astype(float),
            )
            for r in rows
        ]
        key = Path(path).name
        assert key not in found, f"{path} is there twice"
        found[key] = (index.size(row), sorted(boxes, key=lambda b: (b[0], b[1], b[2].tolist())))
    return found


def assert_same(
    first: DatasetIndex, second: DatasetIndex, *, within: float = 1e-4, flags: bool = True
) -> None:
    """The same images, sizes, class names and boxes."""
    a, b = content(first, flags=flags), content(second, flags=flags)
    assert a.keys() == b.keys()
    assert Counter(first.class_map.names) == Counter(second.class_map.names)
    for key, (size, boxes) in a.items():
        other_size, others = b[key]
        assert size == other_size, key
        assert len(boxes) == len(others), key
        # sorting by coordinates may swap boxes that differ by a rounding only
        for name, crowd, box in boxes:
            distances = [
                np.abs(box - o).max() if (n, c) == (name, crowd) else np.inf for n, c, o in others
            ]
            nearest = int(np.argmin(distances))
            assert distances[nearest] <= within, (key, name, box, distances[nearest])
            others = others[:nearest] + others[nearest + 1 :]


def assert_same_splits(
    first: Path, second: Path, *, within: float = 1e-4, flags: bool = True
) -> None:
    """`assert_same` for each split of two data sets."""
    a, b = open_splits(first), open_splits(second)
    assert list(a) == list(b)
    for split in a:
        assert_same(a[split], b[split], within=within, flags=flags)
