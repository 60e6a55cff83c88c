"""`detrkit infer`: detections on images, folders and patterns; pictures and JSON lines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from detrkit.cli.options import Device, InputSize, JsonOut, Output, Weights, WeightsConfig

if TYPE_CHECKING:
    from detrkit.structures import Detections

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045


def infer(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE…",
            help="Images, folders, or patterns in quotes: 'shots/*.jpg'.",
            show_default=False,
        ),
    ],
    weights: Weights,
    config: WeightsConfig = None,
    conf: Annotated[float, typer.Option(min=0, max=1, help="Lowest score.")] = 0.3,
    classes: Annotated[
        Optional[str],
        typer.Option(
            metavar="NAME,NAME…",
            help="Only these classes, by name or number.",
            show_default=False,
        ),
    ] = None,
    max_det: Annotated[int, typer.Option(min=1, help="At most so many per image.")] = 300,
    draw: Annotated[bool, typer.Option("--draw/--no-draw", help="Write pictures.")] = True,
    batch: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    size: InputSize = None,
    device: Device = None,
    output: Output = None,
    json: JsonOut = False,
) -> None:
    """Detect on images: draws them and writes detections.jsonl, one line per image.

    Files that cannot be read are listed, the others are finished; the exit code is then 4.
    """  # fmt: skip
    from detrkit.api import load
    from detrkit.cli.console import err, out, print_json
    from detrkit.drawing import draw_detections, viewable
    from detrkit.engine.derive import parse_size
    from detrkit.engine.run_dir import RunDirectory
    from detrkit.engine.sources import expand
    from detrkit.errors import DataError, DetrkitError

    sources = list(expand(source))  # a mistyped name is found before anything is opened
    inputs = parse_size(size) if size else None
    detector = load(weights, config=config, device=device, size=inputs)
    broken: list[tuple[Path, DetrkitError]] = []
    images = detector.stream_with_images(
        sources,
        conf=conf,
        classes=classes.split(",") if classes else None,
        max_det=max_det,
        batch=batch,
        on_broken=lambda path, error: broken.append((path, error)),
    )
    folder: Path | None = None
    results: list[dict[str, Any]] = []
    names: set[str] = set()
    total = 0
    lines = None
    try:
        for found, pixels in images:
            if folder is None:  # now that weights and sources have proved good
                folder = RunDirectory.create("infer", output).path
                lines = (folder / "detections.jsonl").open("w", encoding="utf-8")
            assert lines is not None
            entry = found.to_dict()
            if draw:
                entry["picture"] = str(folder / _unused_name(found.path, names))
                draw_detections(found, viewable(pixels)).save(entry["picture"], quality=92)
            lines.write(_line(entry))
            total += len(found)
            if json:
                results.append(entry)
            else:
                out.print(f"{found.path}  {_summary(found)}", markup=False, soft_wrap=True)
    finally:
        if lines is not None:
            lines.close()
    if json:
        print_json(
            "infer",
            {
                "weights": weights,
                "output": folder,
                "images": results,
                "broken": [{"image": str(p), "reason": e.message} for p, e in broken],
            },
        )
    elif folder is not None:
        what = "pictures and detections.jsonl" if draw else "detections.jsonl"
        err.print(
            f"{total} detections on {len(sources) - len(broken)} images; {what} in {folder}",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    if broken:
        shown = "\n".join(f"  {error.message}" for _, error in broken)
        count = f"{len(broken)} images" if len(broken) > 1 else "1 image"
        raise DataError(f"{count} could not be read\n{shown}", hint="the others are done")


def _unused_name(path: str | None, used: set[str]) -> str:
    """`a.png` -> `a.jpg`, `a-2.jpg` if that is taken."""
    stem = Path(path).stem if path else "image"
    name, number = f"{stem}.jpg", 1
    while name.lower() in used:  # also on file systems that ignore case
        number += 1
        name = f"{stem}-{number}.jpg"
    used.add(name.lower())
    return name


def _line(entry: dict[str, Any]) -> str:
    from json import dumps

    return dumps(entry, ensure_ascii=False) + "\n"


def _summary(found: Detections) -> str:
    """`3 detections: 2 cat, 1 dog`."""
    counts = Counter(found.names).most_common()
    if not counts:
        return "nothing found"
    kinds = ", ".join(f"{count} {name}" for name, count in counts)
    return f"{len(found)} {'detection' if len(found) == 1 else 'detections'}: {kinds}"
