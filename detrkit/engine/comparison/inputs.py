"""What is compared: folders of runs, `metrics.json` of `detrkit eval`, files of detections."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.data.detect import open_dataset, split_to_measure
from detrkit.data.text import read_json, read_yaml
from detrkit.engine.log_names import metric_name
from detrkit.engine.run_dir import RunDirectory
from detrkit.engine.run_log import Row, best_row, read_log
from detrkit.errors import DataError, DetrkitError, UsageError
from detrkit.metrics.coco import METRIC_NAMES
from detrkit.metrics.predictions import Predictions
from detrkit.metrics.results_file import read_results
from detrkit.metrics.truth import Truth

_HINT = (
    "give the folder of a run, a folder or metrics.json of `detrkit eval -o`, or a COCO results "
    "file with --data"
)


@dataclass(frozen=True)
class Entry:
    """One of those that are compared.

    Attributes:
        name: shown everywhere; unique among the entries.
        path: as given.
        kind: "run", "report" or "predictions".
        stated: COCO's numbers as its own files say; empty where they say none.
        stated_classes: {class: (boxes, AP)} as its own files say.
        rows: epochs of a run.
        truth, predictions: to count again; None where one of them is missing.
        gap: why one is missing.
        parameters, flops, milliseconds: of the model, where a report says them.
        teacher: what a run was distilled from, and how; "" where it learned alone.
    """

    name: str
    path: str
    kind: str
    stated: Mapping[str, float]
    stated_classes: Mapping[str, tuple[int, float]]
    rows: Sequence[Row] = ()
    truth: Truth | None = None
    predictions: Predictions | None = None
    gap: str = ""
    parameters: int | None = None
    flops: int | None = None
    milliseconds: float | None = None
    teacher: str = ""


def read_entries(
    arguments: Sequence[str], data: str | Path | None = None, split: str | None = None
) -> list[Entry]:
    """Reads what is to be compared.

    Args:
        arguments: paths, or NAME=PATH.
        data: the ground truth of all of them; default what each was measured on.
        split: part of `data`; default "val", else "test", else the only one.

    Raises:
        UsageError: nothing usable lies at a path.
        DataError: a file is broken, or detections do not fit the ground truth.
    """
    given = None if data is None else Truth.of(_opened(data, split))
    pairs = [_named(argument) for argument in arguments]
    names = _unique([name for name, _ in pairs], [path for _, path in pairs])
    return [_read(name, path, given) for name, (_, path) in zip(names, pairs, strict=True)]


def _named(argument: str) -> tuple[str, Path]:
    """`D-FINE=runs/a` -> its name and path; the name is "" where none is given."""
    path = Path(argument).expanduser()
    if path.exists() or "=" not in argument:
        return "", path
    name, _, rest = argument.partition("=")
    return name.strip(), Path(rest).expanduser()


def _unique(names: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Given names, else as much of the path's end as tells the entries apart.

    Raises:
        UsageError: a name or a path comes twice.
    """
    whole = [path.resolve() for path in paths]
    whole = [path.parent if path.name == "metrics.json" else path for path in whole]
    for depth in range(1, max(len(path.parts) for path in whole) + 1):
        shown = [
            name or "/".join(path.parts[-depth:]) for name, path in zip(names, whole, strict=True)
        ]
        if len(set(shown)) == len(shown):
            return shown
    twice = next(name for name in shown if shown.count(name) > 1)
    raise UsageError(
        f"`{twice}` comes twice", hint="give each a name of its own: first=PATH second=PATH"
    )


def _read(name: str, path: Path, given: Truth | None) -> Entry:
    if path.is_dir():
        if (path / "log.jsonl").is_file():
            return _run(name, path, given)
        if (path / "metrics.json").is_file():
            return _report(name, path / "metrics.json", read_json(path / "metrics.json"), given)
        raise UsageError(f"{path}: neither log.jsonl nor metrics.json lies there", hint=_HINT)
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder", hint=_HINT)
    if path.suffix.lower() != ".json":
        raise UsageError(f"{path} cannot be compared", hint=_HINT)
    if _starts_list(path):
        return _detections(name, path, given)
    return _report(name, path, read_json(path), given)


def _starts_list(path: Path) -> bool:
    """Whether a JSON file holds a list; files of detections are too large to read for that."""
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _run(name: str, path: Path, given: Truth | None) -> Entry:
    directory = RunDirectory(path)
    rows = read_log(directory.log)
    best = best_row(rows)
    if not rows:
        raise DataError(f"{directory.log}: no epoch has ended yet")
    truth, found, gap = _evidence(
        given, directory.best_predictions, lambda: _configured_truth(path / "config.yml")
    )
    values = best or {}
    return Entry(
        name=name,
        path=str(path),
        kind="run",
        stated={
            n: float(values[metric_name(n)])
            for n in METRIC_NAMES
            if isinstance(values.get(metric_name(n)), (int, float))
        },
        stated_classes={},
        rows=rows,
        truth=truth,
        predictions=found,
        gap=gap,
        teacher=_teacher_of(path / "config.yml"),
    )


def _teacher_of(config: Path) -> str:
    """`teacher/best.pth, mode both`; "" without a distillation or a readable file."""
    try:
        section = read_yaml(config).get("distillation") if config.is_file() else None
    except (DetrkitError, AttributeError):
        return ""
    if not isinstance(section, dict):
        return ""
    foundation = section.get("foundation") or {}
    name = section.get("weights") or foundation.get("name") or "a backbone"
    return f"{name}, mode {section.get('mode', 'both')}"


def _report(name: str, path: Path, content: Any, given: Truth | None) -> Entry:
    try:
        stated = {n: float(content["metrics"][n]) for n in METRIC_NAMES}
        classes = {str(c["name"]): (int(c["boxes"]), float(c["AP"])) for c in content["classes"]}
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{path} is no metrics.json of `detrkit eval`", hint=_HINT) from None
    truth, found, gap = _evidence(
        given, _detections_of(path, content), lambda: _stated_truth(content)
    )
    model, speed = content.get("model") or {}, content.get("speed") or {}
    return Entry(
        name=name,
        path=str(path),
        kind="report",
        stated=stated,
        stated_classes=classes,
        truth=truth,
        predictions=found,
        gap=gap,
        parameters=model.get("parameters"),
        flops=model.get("flops"),
        milliseconds=speed.get("total"),
    )


def _evidence(
    given: Truth | None, file: Path | None, own: Callable[[], Truth | None]
) -> tuple[Truth | None, Predictions | None, str]:
    """Ground truth and detections of an entry, or why there are none.

    Args:
        given: on the command line, for all entries.
        file: its detections.
        own: opens its own ground truth.
    """
    if file is None:
        return None, None, "its detections were not kept (eval --predictions-out keeps them)"
    if not file.is_file():
        return None, None, f"its detections, {file}, do not exist"
    if given is not None:
        return given, read_results(file, given).predictions, ""
    try:
        truth = own()
    except DetrkitError as error:
        return None, None, f"its ground truth cannot be read: {error.message}"
    if truth is None:
        return None, None, "it does not say where its ground truth is; --data names it"
    try:
        return truth, read_results(file, truth).predictions, ""
    except DataError as error:
        return None, None, f"its detections do not fit its ground truth: {error.message}"


def _detections_of(path: Path, content: Mapping[str, Any]) -> Path | None:
    """The file that `--predictions-out` wrote, there or moved beside the report."""
    written = content.get("predictions")
    if not isinstance(written, str):
        return None
    return next(
        (file for file in (Path(written), path.parent / Path(written).name) if file.is_file()),
        Path(written),
    )


def _stated_truth(content: Mapping[str, Any]) -> Truth | None:
    """The ground truth of a report: `FILE` or `PATH, split` in its `data`, else its config's."""
    data, config = content.get("data"), content.get("config")
    if not isinstance(data, str):
        return None
    if Path(data).is_file():
        return Truth.of(_opened(data, None))
    path, _, split = data.rpartition(", ")
    if split in ("train", "val", "test") and (Path(path).exists() or path == "shapes"):
        return Truth.of(_opened(path, split))
    is_configured = split == "validation" or data.startswith("validation data of ")
    if not is_configured or not isinstance(config, str):
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yml"
        file.write_text(config, encoding="utf-8")
        return _configured_truth(file)


def _configured_truth(config: Path) -> Truth:
    """The validation data of a configuration."""
    from detrkit.config import load_config
    from detrkit.engine.evaluation import validation_index

    index, _ = validation_index(load_config(config))
    return Truth.of(index)


def _detections(name: str, path: Path, given: Truth | None) -> Entry:
    if given is None:
        raise UsageError(
            f"{path}: detections alone say nothing without the boxes",
            hint="name the ground truth: --data gt.json, or a folder and --split val",
        )
    found = read_results(path, given).predictions
    return Entry(name, str(path), "predictions", {}, {}, truth=given, predictions=found)


def _opened(data: str | Path, split: str | None) -> Any:
    index = open_dataset(data, split or split_to_measure(data), check_images="none")
    if not len(index):
        raise DataError(f"{data}: nothing to compare on: it has no images")
    return index
