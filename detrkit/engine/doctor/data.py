"""The data set as training will see it: splits, faults, classes, boxes against queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detrkit.config import Config
from detrkit.data import shapes
from detrkit.data.dataset import DetectionDataset
from detrkit.data.detect import find_layout, open_splits
from detrkit.data.index import DatasetIndex
from detrkit.engine.doctor.fault_checks import class_checks, fault_checks, skipped_check
from detrkit.engine.doctor.image_checks import decode_check, leak_checks
from detrkit.engine.doctor.report import Check, Section, guarded, note, of_error, ok, warning
from detrkit.engine.overheard import overheard
from detrkit.engine.recognise import component
from detrkit.engine.session import dataset_of, open_data
from detrkit.engine.step_probe import training_boxes
from detrkit.errors import ConfigError, DetrkitError
from detrkit.words import count, share

#: Seconds that decoding images, and comparing files, may take.
SECONDS = 5.0

#: Below this many validation images AP moves by accident.
FEW_TO_MEASURE = 20

#: Above this share of images without boxes, one may wonder whether labels are missing.
MUCH_BACKGROUND = 0.5


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
            seen.train, seen.val = train, val
            return seen
        except DetrkitError as error:
            seen.errors.append(error)
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
    except DetrkitError as error:
        _remember(seen, error)
        return
    for split in layout.splits:
        _read(seen, split, partial(layout.read, split, None, "all"))


def _read(seen: DataSeen, name: str, read: Callable[[], DatasetIndex]) -> None:
    try:
        seen.parts[name] = read()
    except DetrkitError as error:
        _remember(seen, error)


def _remember(seen: DataSeen, error: DetrkitError) -> None:
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
    look("data.classes", lambda: class_checks(parts))
    look("data.background", lambda: _background(parts))
    if cfg is not None:
        look("data.queries", lambda: _queries(parts, cfg))
    if seconds != 0:
        channels = cfg.run.in_channels if cfg is not None else 3
        look("data.pixels", lambda: _decoded(seen, cores, seconds, channels))
        look("data.leak", lambda: leak_checks(parts, seconds or SECONDS))
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
    val = seen.parts.get("val")
    if val is not None and len(val) < FEW_TO_MEASURE:
        yield note(
            "data.validation",
            f"{count(len(val), 'validation image')}: AP moves by accident from epoch to epoch",
            "use more of them",
            values={"images": len(val)},
        )


def _background(parts: dict[str, DatasetIndex]) -> Iterator[Check]:
    for name, part in parts.items():
        boxes = training_boxes(part)
        without = int((boxes == 0).sum())
        if without > MUCH_BACKGROUND * len(part):
            yield warning(
                f"data.background.{name}",
                f"{without:,} of {count(len(part), 'image')} of {name} "
                f"({share(without, len(part))}) have no boxes",
                "are label files missing, or their names different?",
                values={"images": without},
            )


def _queries(parts: dict[str, DatasetIndex], cfg: Config) -> Iterator[Check]:
    """Boxes per image against what the decoder can answer with."""
    try:
        queries = int(component(cfg, "decoder")[1].get("num_queries") or 0)
    except ConfigError:
        return  # a model without such a decoder
    kept = cfg.run.num_top_queries or queries
    most = min(queries, kept)
    for name, part in parts.items():
        boxes = training_boxes(part)
        fullest = int(boxes.max(initial=0))
        median = int(np.median(boxes)) if len(boxes) else 0
        values = {"most": fullest, "median": median, "queries": queries, "detections": kept}
        text = f"boxes per image of {name}: median {median}, most {fullest}; {queries} queries"
        over = int((boxes > most).sum())
        if over:
            yield warning(
                f"data.queries.{name}",
                f"{text}: {count(over, 'image')} can never be found whole",
                f"-u {component(cfg, 'decoder')[0]}.num_queries={_round_up(fullest)} "
                f"num_top_queries={_round_up(fullest)}, or cut the images into tiles",
                values={"images": over, **values},
            )
        else:
            yield ok(f"data.queries.{name}", text, values=values)


def _round_up(number: int) -> int:
    return -(-number // 100) * 100


def _decoded(seen: DataSeen, cores: int, seconds: float | None, channels: int) -> Check:
    check, seen.broken = decode_check(seen.parts, cores, seconds, channels)
    return check
