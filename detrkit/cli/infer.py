"""`detrkit infer`: detections on pictures, videos, cameras and streams; drawn, and as lists."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from detrkit.cli.options import (
    Classes,
    Conf,
    Device,
    Half,
    InputSize,
    JsonOut,
    MaxDet,
    Output,
    PassSize,
    Provider,
    Threads,
    Weights,
    WeightsConfig,
    class_names,
)

if TYPE_CHECKING:
    from detrkit.cli.infer_report import InferenceReport
    from detrkit.engine.sources import Item

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045


def infer(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE…",
            help="Images, videos, folders, patterns in quotes ('shots/*.jpg'), cameras (0), "
            "addresses (rtsp://…, http://…); - reads paths from stdin.",
            show_default=False,
        ),
    ],
    weights: Weights,
    config: WeightsConfig = None,
    conf: Conf = 0.3,
    classes: Classes = None,
    names: Annotated[
        Optional[str],
        typer.Option(
            metavar="FILE|NAME,NAME…",
            help="Other names for the classes, all of them: a list, or a file.",
            show_default=False,
        ),
    ] = None,
    max_det: MaxDet = 300,
    save: Annotated[
        Optional[str],
        typer.Option(
            metavar="KIND,KIND…",
            help="What to write: pictures, video, jsonl, coco, yolo, csv, crops, mot. By default "
            "jsonl, pictures of pictures and videos of videos.",
            show_default=False,
        ),
    ] = None,
    draw: Annotated[
        bool, typer.Option("--draw/--no-draw", help="Write pictures and videos.")
    ] = True,
    font_size: Annotated[
        Optional[int],
        typer.Option(
            min=4,
            metavar="N",
            help="Of the letters, in pixels; by default the picture's size tells.",
            show_default=False,
        ),
    ] = None,
    line_width: Annotated[
        Optional[int],
        typer.Option(
            min=1,
            metavar="N",
            help="Of the boxes, in pixels; by default the picture's size tells.",
            show_default=False,
        ),
    ] = None,
    slice_: Annotated[
        Optional[str],
        typer.Option(
            "--slice",
            metavar="N|HxW",
            help="Small objects: detect on tiles of so many pixels as well.",
            show_default=False,
        ),
    ] = None,
    overlap: Annotated[
        float, typer.Option(min=0, max=0.89, help="Of neighbouring tiles, as a part of one.")
    ] = 0.2,
    track: Annotated[
        Optional[str],
        typer.Option(
            metavar="NAME",
            help="Follow objects: bytetrack, botsort, ocsort, sort, cbiou. --conf is the score "
            "that begins a track.",
            show_default=False,
        ),
    ] = None,
    frame_step: Annotated[int, typer.Option(min=1, help="Every which frame of a video.")] = 1,
    limit: Annotated[
        Optional[int],
        typer.Option(
            min=1, metavar="N", help="End after so many images and frames.", show_default=False
        ),
    ] = None,
    stream_timeout: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="Give a camera or stream up when no frame comes."
        ),
    ] = 30,
    batch: PassSize = 8,
    half: Half = False,
    provider: Provider = None,
    threads: Threads = None,
    size: InputSize = None,
    device: Device = None,
    output: Output = None,
    json: JsonOut = False,
) -> None:
    """Detect on images, videos and streams: draws what is found and writes detections.jsonl.

    Sources that cannot be read are listed, the others are finished; the exit code is then 4.
    Ctrl-C ends after the images at hand and finishes all files.
    """  # fmt: skip
    from detrkit.api import load
    from detrkit.cli.console import progress_bar
    from detrkit.cli.infer_report import InferenceReport
    from detrkit.engine.derive import parse_sides, parse_size
    from detrkit.engine.interrupt import InterruptGuard
    from detrkit.engine.names_file import read_names
    from detrkit.engine.run_dir import RunDirectory
    from detrkit.engine.saving.drawn import Style
    from detrkit.engine.saving.outputs import Outputs, parse_kinds
    from detrkit.engine.tiling import Tiling
    from detrkit.engine.tracks import tracker_class
    from detrkit.errors import Interrupted

    # mistakes are found before anything is opened
    kinds = parse_kinds(save) if save else None
    tiling = Tiling(parse_sides(slice_, "--slice"), overlap) if slice_ else None
    other_names = read_names(names) if names else None
    inputs = parse_size(size) if size else None
    if track:
        tracker_class(track)
    with InterruptGuard() as guard:
        report = InferenceReport(silent=json)
        items = _expanded(source, report, lambda: guard.requested)
        detector = load(
            weights, config=config, device=device, size=inputs, half=half, provider=provider,
            threads=threads,
        )  # fmt: skip
        if other_names is not None:
            detector.rename(other_names)
        frames = detector.stream_with_frames(
            items,
            conf=conf,
            classes=class_names(classes),
            max_det=max_det,
            batch=batch,
            tiling=tiling,
            track=track,
            frame_step=frame_step,
            limit=limit,
            stream_timeout=stream_timeout,
            on_broken=report.broken,
            stop=lambda: guard.requested,
        )
        with ExitStack() as stack:
            advance = stack.enter_context(progress_bar("detecting", quiet=json, rate="FPS"))
            stack.enter_context(closing(frames))
            report.begun = time.monotonic()  # opening the model is not its speed
            for found, frame in frames:
                if report.outputs is None:  # now that weights and sources have proved good
                    folder = RunDirectory.create("infer", output).path
                    style = Style(font_size, line_width)
                    outputs = Outputs(folder, kinds, found.class_map, draw=draw, style=style)
                    report.outputs = stack.enter_context(outputs)
                report.add(report.outputs.save(found, frame))
                if advance is not None:
                    advance(report.images + report.frames, report.total(items, frame_step, limit))
        report.end(weights)
    if guard.requested:
        done = f"what is done is in {report.folder}" if report.folder else "nothing was done yet"
        raise Interrupted(f"interrupted; {done}")
    report.raise_broken()


def _expanded(
    source: list[str], report: InferenceReport, stop: Callable[[], bool]
) -> list[Item] | Iterator[Item]:
    """What to detect on; paths on stdin are taken as they come."""
    from detrkit.engine.media.background import in_background
    from detrkit.engine.media.places import Address, Camera
    from detrkit.engine.media.pyav import import_av
    from detrkit.engine.sources import expand, is_moving
    from detrkit.errors import UsageError

    if "-" in source:
        if len(source) > 1:
            raise UsageError("- reads all sources from stdin: give no others beside it")
        return expand(in_background(_stdin_lines(), 16, stop), report.broken)
    items = list(expand(source))
    if any(is_moving(item) and not isinstance(item, Camera) for item in items):
        import_av()
    live = [item for item in items if isinstance(item, Address | Camera)]
    if len(live) > 1:
        raise UsageError(
            "cameras and streams have no end: give one at a time",
            hint="start `detrkit infer` once for each",
        )
    return items


def _stdin_lines() -> Iterator[str]:
    """Lines of stdin that are not empty.

    Read through a file of its own: Python cannot leave while a thread waits in `sys.stdin`.
    """
    with open(0, encoding="utf-8", errors="surrogateescape", closefd=False) as lines:
        for line in lines:
            if path := line.rstrip("\r\n"):
                yield path
