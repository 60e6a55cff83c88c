"""`detrkit infer`: detections on pictures, videos, cameras and streams; drawn, and as lists."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from detrkit.cli.options import Device, InputSize, JsonOut, Output, Weights, WeightsConfig

if TYPE_CHECKING:
    from detrkit.engine.media.frame import Clip
    from detrkit.engine.saving.outputs import Outputs
    from detrkit.engine.saving.record import Record
    from detrkit.engine.sources import Item
    from detrkit.errors import DataError
    from detrkit.structures import Detections

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045

#: Broken sources that are shown one by one; broken.txt has them all.
_SHOWN = 50


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
    conf: Annotated[float, typer.Option(min=0, max=1, help="Lowest score.")] = 0.3,
    classes: Annotated[
        Optional[str],
        typer.Option(
            metavar="NAME,NAME…",
            help="Only these classes, by name or number.",
            show_default=False,
        ),
    ] = None,
    names: Annotated[
        Optional[str],
        typer.Option(
            metavar="FILE|NAME,NAME…",
            help="Other names for the classes, all of them: a list, or a file.",
            show_default=False,
        ),
    ] = None,
    max_det: Annotated[int, typer.Option(min=1, help="At most so many per image.")] = 300,
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
    batch: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    half: Annotated[
        bool, typer.Option("--half", help="16 bits: fp16 on a GPU, bf16 on a CPU that has it.")
    ] = False,
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
        report = _Report(silent=json)
        items = _expanded(source, report, lambda: guard.requested)
        detector = load(weights, config=config, device=device, size=inputs)
        if other_names is not None:
            detector.rename(other_names)
        if half:
            detector.halve()
        frames = detector.stream_with_frames(
            items,
            conf=conf,
            classes=classes.split(",") if classes else None,
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
    source: list[str], report: _Report, stop: Callable[[], bool]
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


@dataclass
class _Report:
    """What was done: told line by line, and as a whole at the end.

    Attributes:
        silent: `--json`: nothing is printed but the object, which holds everything.
        outputs: what is written; None before the first image.
    """

    silent: bool
    outputs: Outputs | None = None
    images: int = 0
    frames: int = 0
    detections: int = 0
    begun: float = 0.0
    entries: list[dict[str, Any]] = field(default_factory=list)
    clips: dict[Clip, _ClipCount] = field(default_factory=dict)
    faults: list[tuple[Path | str, DataError]] = field(default_factory=list)

    @property
    def folder(self) -> Path | None:
        return self.outputs.folder if self.outputs is not None else None

    def broken(self, path: Path | str, error: DataError) -> None:
        self.faults.append((path, error))

    def add(self, record: Record) -> None:
        from detrkit.cli.console import say_result

        found, clip = record.found, record.frame.clip
        self.detections += len(found)
        if self.silent:
            self.entries.append(record.to_dict())
        if clip is None:
            self._tell_clip()
            self.images += 1
            if not self.silent:
                say_result(f"{found.path}  {_summary(found)}")
            return
        if clip not in self.clips:
            self._tell_clip()
            self.clips[clip] = _ClipCount()
        self.frames += 1
        self.clips[clip].add(found)

    def _tell_clip(self) -> None:
        """A line about the last video, once it is over."""
        from detrkit.cli.console import say_result

        for clip, count in self.clips.items():
            if not count.told:
                count.told = True
                if not self.silent:
                    say_result(f"{clip.name}  {count.summary(clip)}")

    def total(self, items: Iterable[Item], step: int, limit: int | None) -> int | None:
        """Images and frames that there will be, as far as is known; for the progress bar."""
        if not isinstance(items, list):
            return limit
        known = len(items) - len(self.clips)
        for clip in self.clips:
            if clip.live or not clip.frames:
                return limit
            known += -(-clip.frames // step)
        return min(known, limit) if limit else known

    def end(self, weights: str) -> None:
        """The line about all of it, or the JSON object."""
        from detrkit.cli.console import err, print_json
        from detrkit.words import count

        self._tell_clip()
        self._write_broken()
        if self.silent:
            print_json("infer", self._as_dict(weights))
            return
        if self.outputs is None:
            return
        from detrkit.engine.saving.outputs import KINDS

        seconds = max(time.monotonic() - self.begun, 1e-9)
        done = [
            count(number, thing)
            for number, thing in ((self.images, "image"), (self.frames, "frame"))
            if number
        ]
        shown = [KINDS[kind] for kind in self.outputs.kinds if self._was_written(kind)]
        written = f"{_listing(shown)} in {self.folder}" if shown else "nothing written"
        err.print(
            f"{self.detections} detections on {_listing(done)}, "
            f"{(self.images + self.frames) / seconds:.1f} per second; {written}",
            markup=False, soft_wrap=True,
        )  # fmt: skip

    def _was_written(self, kind: str) -> bool:
        if kind == "video":
            return bool(self.clips)
        return kind != "pictures" or bool(self.images) or self._frames_drawn()

    def _frames_drawn(self) -> bool:
        return self.outputs is not None and self.outputs.frames_too

    def _as_dict(self, weights: str) -> dict[str, Any]:
        return {
            "weights": weights,
            "output": self.folder,
            "images": self.entries,
            "videos": [
                {
                    "source": clip.name,
                    "frames": count.frames,
                    "dropped": clip.dropped,
                    "rate": clip.rate,
                    "video": self.outputs.video_of(clip) if self.outputs else None,
                }
                for clip, count in self.clips.items()
            ],
            "broken": [{"image": str(p), "reason": e.message} for p, e in self.faults],
        }

    def _write_broken(self) -> None:
        if self.faults and self.folder is not None:
            from detrkit.files import write_atomically

            lines = "".join(f"{path}\t{' '.join(e.message.split())}\n" for path, e in self.faults)
            content = lines.encode("utf-8", "replace")
            write_atomically(self.folder / "broken.txt", lambda file: file.write(content))

    def raise_broken(self) -> None:
        """Raises a DataError that lists what could not be read, if there was any."""
        from detrkit.engine.media.video import is_video_file
        from detrkit.errors import DataError

        if not self.faults:
            return
        moving = any(isinstance(p, str) or is_video_file(p) for p, _ in self.faults)
        thing = "source" if moving else "image"
        number = len(self.faults)
        shown = [f"  {error.message}" for _, error in self.faults[:_SHOWN]]
        if number > _SHOWN:
            shown.append(f"  and {number - _SHOWN} more: see {self.folder or '--json'}/broken.txt")
        some = f"{number} {thing}s" if number > 1 else f"1 {thing}"
        end = ", or not to the end" if moving else ""
        lines = "\n".join(shown)
        raise DataError(
            f"{some} could not be read{end}\n{lines}",
            hint="the others are done" if self.outputs is not None else None,
        )


@dataclass
class _ClipCount:
    """What was found in one video."""

    frames: int = 0
    detections: int = 0
    names: Counter[str] = field(default_factory=Counter)
    tracks: dict[int, str] = field(default_factory=dict)
    tracked: bool = False
    told: bool = False

    def add(self, found: Detections) -> None:
        self.frames += 1
        self.detections += len(found)
        self.names.update(found.names)
        if found.track_ids is not None:
            self.tracked = True
            self.tracks.update(zip(found.track_ids.tolist(), found.names, strict=True))

    def summary(self, clip: Clip) -> str:
        """`120 frames, 3 tracks: 2 cat, 1 dog`, `…; 40 dropped: the detector was busy`."""
        from detrkit.words import count

        kinds = Counter(self.tracks.values()) if self.tracked else self.names
        number = len(self.tracks) if self.tracked else self.detections
        thing = "track" if self.tracked else "detection"
        what = f"{count(number, thing)}: {_kinds(kinds)}" if number else "nothing found"
        dropped = f"; {count(clip.dropped, 'frame')} dropped, the detector was busy"
        return f"{count(self.frames, 'frame')}, {what}{dropped if clip.dropped else ''}"


def _summary(found: Detections) -> str:
    """`3 detections: 2 cat, 1 dog`."""
    if not len(found):
        return "nothing found"
    noun = "detection" if len(found) == 1 else "detections"
    return f"{len(found)} {noun}: {_kinds(Counter(found.names))}"


def _kinds(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _listing(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
