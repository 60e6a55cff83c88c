"""The data set as training will see it: splits, faults, classes, boxes against queries."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from detrkit.analysis import Severity, advise, find
from detrkit.config import Config
from detrkit.data import shapes
from detrkit.data.dataset import DetectionDataset
from detrkit.data.detect import find_layout, open_splits
from detrkit.data.index import DatasetIndex
from detrkit.engine.data_analysis import training_setup
from detrkit.engine.data_sets import dataset_of, open_data
from detrkit.engine.doctor.fault_checks import fault_checks, skipped_check
from detrkit.engine.doctor.image_checks import decode_check, leak_checks
from detrkit.engine.doctor.report import (
    DEBUG,
    Check,
    Section,
    Status,
    guarded,
    in_short,
    note,
    of_error,
    ok,
    warning,
)
from detrkit.engine.negatives import add_negatives, open_eval_negatives
from detrkit.engine.overheard import overheard
from detrkit.errors import DetrkitError
from detrkit.words import count

log = logging.getLogger("detrkit.doctor")

#: Seconds that decoding images, and comparing files, may take.
SECONDS = 5.0

#: Classes that are shown.
SHOWN = 6


@dataclass
class DataSeen:
    """What could be read.

    Attributes:
        parts: {"train": …, "val": …}; those that could be read.
        train, val: as a run gets them; None where it would not start.
        errors: why it would not start.
        said: warnings of reading.
        broken: per part the numbers of images that cannot be decoded, among those looked at.
    """

    parts: dict[str, DatasetIndex] = field(default_factory=dict)
    train: DetectionDataset | None = None
    val: DetectionDataset | None = None
    errors: list[DetrkitError] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    broken: dict[str, list[int]] = field(default_factory=dict)


def read_data(cfg: Config, seed: int) -> DataSeen:
    """Reads the data of a run; where that fails, each part on its own as far as possible."""
    seen = DataSeen()
    with overheard(quiet=True) as seen.said:
        try:
            train, val = open_data(cfg, seed, check_images="all")
            seen.parts["train"] = train.index
            if val is not None:
                seen.parts["val"] = val.index
            add_negatives(cfg, train, seed)
            open_eval_negatives(cfg, train)
            seen.train, seen.val = train, val
            return seen
        except Exception as error:
            _remember(seen, error)
        seen.parts.clear()
        if cfg.run.data:
            read_parts(seen, cfg.run.data)
            return seen
        for name in ("train", "val"):
            _read(seen, name, partial(_index_of_section, cfg, f"{name}_dataloader"))
    return seen


def _index_of_section(cfg: Config, section: str) -> DatasetIndex:
    return dataset_of(cfg, section, training=False, check_images="all").index


def read_parts(seen: DataSeen, data: str) -> None:
    """Adds each part of a data set that can be read alone, and the error of those that cannot."""
    if shapes.is_shapes(data):
        seen.parts.update(open_splits(data))
        return
    try:
        layout = find_layout(Path(data).expanduser())
    except Exception as error:
        _remember(seen, error)
        return
    for split in layout.splits:
        _read(seen, split, partial(layout.read, split, None, "all"))


def _read(seen: DataSeen, name: str, read: Callable[[], DatasetIndex]) -> None:
    try:
        seen.parts[name] = read()
    except Exception as error:
        _remember(seen, error)


def _remember(seen: DataSeen, error: Exception) -> None:
    if not isinstance(error, DetrkitError):
        log.debug("reading failed", exc_info=error)
        error = DetrkitError(f"the data cannot be read: {in_short(error)}", hint=DEBUG)
    if error.message not in [known.message for known in seen.errors]:
        seen.errors.append(error)


def examine_data(
    seen: DataSeen, cfg: Config | None, *, cores: int = 1, seconds: float | None = SECONDS
) -> Section:
    """Every check of the data set.

    Args:
        seen: of `read_data`; gets the broken images.
        cfg: the configuration, for its queries; None: unknown.
        cores: threads that decode.
        seconds: for decoding and for comparing files, each; 0 leaves both out.
    """
    section = Section("data")
    for error in seen.errors:
        section.checks += of_error("data", error)
    if not seen.parts:
        return section
    parts = seen.parts
    root = _root(cfg)

    def look(code: str, check: Callable[[], Any]) -> None:
        section.checks += guarded(code, check)

    look("data.splits", lambda: _splits(parts))
    look("data.validation", lambda: _validation(seen))
    look("data.faults", lambda: fault_checks(parts, root))
    look("data.skipped", lambda: skipped_check(parts))
    look("data.classes", lambda: _classes(parts))
    if seconds != 0:
        channels = cfg.run.in_channels if cfg is not None else 3
        look("data.pixels", lambda: _decoded(seen, cores, seconds, channels))
        look("data.leak", lambda: leak_checks(parts, seconds or SECONDS))
    bad = [check.code for check in section.checks if check.status is not Status.OK]
    look("data.advice", lambda: _advice(seen, cfg, bad))
    section.checks += [warning("data.said", line) for line in _unsaid(seen)]
    return section


def _unsaid(seen: DataSeen) -> list[str]:
    """Warnings of reading that no check of this section repeats, as those of faults do."""
    kinds = {fault.kind.what for part in seen.parts.values() for fault in part.faults}
    lines = [line for line in seen.said if not any(what in line for what in kinds)]
    return [line for line in dict.fromkeys(lines) if " as well, e.g. " not in line]


def _root(cfg: Config | None) -> Path | None:
    data = cfg.run.data if cfg is not None else None
    if not data or shapes.is_shapes(data):
        return None
    path = Path(data)
    return path if path.is_dir() else path.parent


def _splits(parts: dict[str, DatasetIndex]) -> Check:
    words = [
        f"{name} {count(len(part), 'image')} with {count(part.num_boxes, 'box')}"
        for name, part in parts.items()
    ]
    source = next(iter(parts.values())).source
    values = {
        name: {"images": len(part), "boxes": part.num_boxes, "source": part.source}
        for name, part in parts.items()
    }
    return ok("data.splits", f"{'; '.join(words)} ({source})", values=values)


def _validation(seen: DataSeen) -> Iterator[Check]:
    if seen.train is not None and seen.val is None:
        yield warning(
            "data.validation",
            "nothing to validate on: no AP, no choice of the best epoch",
            "--val-fraction 0.1 holds images out",
        )


def _classes(parts: dict[str, DatasetIndex]) -> Check:
    """Boxes of each class."""
    first = next(iter(parts.values()))
    names = first.class_map.names
    boxes = {
        name: part.boxes_per_class().tolist()
        for name, part in parts.items()
        if part.class_map.names == names
    }
    trained = boxes.get("train") or next(iter(boxes.values()))
    ranked = sorted(range(len(names)), key=lambda i: -trained[i])
    shown = [f"{names[i]} {trained[i]:,}" for i in ranked[:SHOWN]]
    text = f"{count(len(names), 'class')}: {', '.join(shown)}"
    if len(names) > SHOWN:
        text += f", … {names[ranked[-1]]} {trained[ranked[-1]]:,}"
    rows = [
        {
            "name": name,
            "category_id": first.class_map.category_ids[i],
            **{f"{part}_boxes": numbers[i] for part, numbers in boxes.items()},
        }
        for i, name in enumerate(names)
    ]
    return ok("data.classes", text, values={"classes": rows})


def _advice(seen: DataSeen, cfg: Config | None, said: Collection[str]) -> Iterator[Check]:
    """What the analysis of the data set advises, as far as nothing else here says it.

    Args:
        seen: with its parts.
        cfg: says what the data set is judged for.
        said: codes of checks that were not well already.
    """
    parts = seen.parts
    if len({part.class_map.names for part in parts.values()}) > 1:
        return  # an error of its own
    source = str(cfg.run.data) if cfg is not None and cfg.run.data else "DATA"
    setup = training_setup(cfg) if cfg is not None else None
    left_out = 0
    for advice in advise(find(source, parts, setup, partial=seen.val is not None)):
        if advice.code in _SAID_ELSEWHERE or (
            advice.code == "leak" and any(code.startswith("data.leak") for code in said)
        ):
            continue
        if advice.severity is Severity.NOTE:
            left_out += 1
            continue
        first, *why = re.split(r"(?<=[.?])\s+(?=[A-Z])", advice.text)
        judge = warning if advice.severity is Severity.WARNING else note
        yield judge(
            f"data.{advice.code}", first.rstrip("."), advice.change, values={"why": " ".join(why)}
        )
    more = f"{left_out} more, and why: " if left_out else "why, and tables of all: "
    config = f" --config {cfg.name}" if cfg is not None else ""
    yield ok("data.advice", f"{more}detrkit dataset-analyze {source}{config}")


#: Advice that checks of this section, or of the plan, give with more about it.
_SAID_ELSEWHERE = frozenset(
    {"annotations-left-out", "images-left-out", "images-without-labels", "no-validation", "batch"}
)


def _decoded(seen: DataSeen, cores: int, seconds: float | None, channels: int) -> Check:
    check, seen.broken = decode_check(seen.parts, cores, seconds, channels)
    return check
