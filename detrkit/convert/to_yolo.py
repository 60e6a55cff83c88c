"""Writing a data set as YOLO: `images/<split>`, `labels/<split>`, `data.yaml`.

YOLO keeps boxes as fractions of the image as it is shown, so this starts from a `DatasetIndex`,
which knows the true sizes and has applied detrkit's rules to faulty boxes. Ids, areas, segments
and crowd flags have no place in the format.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from detrkit.convert.headers import Progress
from detrkit.convert.output import staged
from detrkit.convert.placement import target_names
from detrkit.convert.placing import Place, put
from detrkit.convert.summary import SplitCounts, Summary
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.images import read_header
from detrkit.data.index import DatasetIndex
from detrkit.data.splits import SPLIT_NAMES
from detrkit.errors import UsageError


def decimals(size: tuple[int, int]) -> int:
    """Digits after the point that keep a corner within 0.01 pixels in an image of (h, w).

    A corner is off by at most 0.75 units of the last digit (half of one for the centre, a quarter
    for half the side): 6 digits give 0.0005 pixels at 640, and 0.0075 at 10,000.
    """
    return 6 if max(size) <= 10_000 else 7


def write(
    indices: Mapping[str, DatasetIndex],
    output: Path,
    *,
    place: Place = Place.link,
    keep_crowds: bool = False,
    force: bool = False,
    sources: list[Path] | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Writes a YOLO data set.

    Args:
        indices: {split: images and boxes}.
        output: a folder.
        place: how the images get there.
        keep_crowds: write crowd regions as ordinary boxes; otherwise they are left out.
        force: replace a former result.
        sources: annotation files that were read.
        progress: called with the number of images brought and of all.

    Raises:
        UsageError: there is a result already, or the images are to stay where they are.
        DetrkitError: it cannot be written.
    """
    if place is Place.refer:
        raise UsageError("YOLO finds labels beside its images: --place link, symlink or copy")
    parts = [f"{kind}/{split}" for kind in ("images", "labels") for split in SPLIT_NAMES]
    reads = [*(sources or []), *(Path(p) for index in indices.values() for p in index.paths)]
    counts: dict[str, SplitCounts] = {}
    faults: list[FaultReport] = []
    with staged(output, [*parts, "data.yaml"], force=force, sources=reads) as stage:
        for split, index in indices.items():
            own = FaultReport.merge([index.faults])
            counts[split] = _write_split(index, split, stage, place, keep_crowds, own, progress)
            faults.append(own)
        names = next(iter(indices.values())).class_map.names
        content = {split: f"images/{split}" for split in SPLIT_NAMES if split in indices}
        text = yaml.safe_dump(
            content | {"nc": len(names), "names": dict(enumerate(names))},
            allow_unicode=True,
            sort_keys=False,
        )
        (stage / "data.yaml").write_text(text, encoding="utf-8", newline="\n")
    return Summary(output, "YOLO", counts, FaultReport.merge(faults))


def _write_split(
    index: DatasetIndex,
    split: str,
    stage: Path,
    place: Place,
    keep_crowds: bool,
    faults: FaultReport,
    progress: Progress | None,
) -> SplitCounts:
    paths = [Path(path) for path in index.paths]
    names = target_names(paths, by_stem=True, faults=faults)
    wanted = np.ones(index.num_boxes, bool) if keep_crowds else ~index.iscrowd
    for row in np.flatnonzero(~wanted):
        where = f"annotation {index.annotation_ids[row]}"
        faults.add(FaultKind.CROWD_REGION, index.source, where)
    per_image = np.zeros(len(index), np.int64)
    for number, (path, name) in enumerate(zip(paths, names, strict=True)):
        rows = np.arange(index.num_boxes)[index.boxes_of(number)]
        rows = rows[wanted[rows]]
        per_image[number] = len(rows)
        boxes = index.boxes_xyxy[rows].astype(np.float64)
        size = index.size(number)
        if not index.apply_exif[number]:
            boxes, size = _as_shown(boxes, size, read_header(path).orientation)
        put(path, stage / "images" / split / name, place)
        target = (stage / "labels" / split / name).with_suffix(".txt")
        target.parent.mkdir(parents=True, exist_ok=True)
        lines = _lines(index.labels[rows], boxes, size)
        target.write_text("".join(lines), encoding="utf-8", newline="\n")
        if progress is not None:
            progress(number + 1, len(names))
    classes = np.bincount(index.labels[wanted], minlength=len(index.class_map))
    return SplitCounts.of(per_image, index.class_map.names, classes)


def _lines(
    labels: npt.NDArray[np.int64], boxes: npt.NDArray[np.float64], size: tuple[int, int]
) -> list[str]:
    h, w = size
    x1, y1, x2, y2 = boxes.T
    values = np.stack([(x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h], 1)
    digits = decimals(size)
    return [
        " ".join([str(label), *(_text(value, digits) for value in row)]) + "\n"
        for label, row in zip(labels.tolist(), values.tolist(), strict=True)
    ]


def _text(value: float, digits: int) -> str:
    """With as few zeros as possible."""
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _as_shown(
    boxes: npt.NDArray[np.float64], size: tuple[int, int], orientation: int
) -> tuple[npt.NDArray[np.float64], tuple[int, int]]:
    """Boxes (xyxy) on the stored pixels (h, w), moved to the image as EXIF 5–8 shows it.

    The other orientations keep the size of the image, so nobody can tell annotations of the
    stored pixels by it.
    """
    h, w = size
    x1, y1, x2, y2 = boxes.T
    corners = {
        5: (y1, x1, y2, x2),
        6: (h - y2, x1, h - y1, x2),
        7: (h - y2, w - x2, h - y1, w - x1),
        8: (y1, w - x2, y2, w - x1),
    }[orientation]
    return np.stack(corners, 1), (w, h)
