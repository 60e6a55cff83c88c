"""What `detrkit infer` says about its work: a line for each picture and video, and one for all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detrkit.cli.broken import BrokenSources
from detrkit.cli.console import err, print_json, say_result
from detrkit.engine.media.frame import Clip
from detrkit.engine.media.video import is_video_file
from detrkit.engine.saving.outputs import KINDS, Outputs
from detrkit.engine.saving.record import Record
from detrkit.engine.sources import Item
from detrkit.errors import DataError
from detrkit.structures import Detections
from detrkit.words import count


@dataclass
class InferenceReport:
    """What was done: told line by line, and as a whole at the end.

    Attributes:
        silent: `--json`: nothing is printed but the object, which holds everything.
        outputs: what is written; None before the first image.
        images, frames, detections: how many so far.
        begun: when detecting began, by `time.monotonic`.
        entries: with `silent`, everything that was found.
        clips: what was found in each video.
        broken_sources: what could not be read, and why.
    """

    silent: bool
    outputs: Outputs | None = None
    images: int = 0
    frames: int = 0
    detections: int = 0
    begun: float = 0.0
    entries: list[dict[str, Any]] = field(default_factory=list)
    clips: dict[Clip, _ClipCount] = field(default_factory=dict)
    broken_sources: BrokenSources = field(default_factory=BrokenSources)

    @property
    def folder(self) -> Path | None:
        """Where everything is written."""
        return self.outputs.folder if self.outputs is not None else None

    def broken(self, path: Path | str, error: DataError) -> None:
        """Notes a source that cannot be read, or not to its end."""
        self.broken_sources.add(path, error)

    def add(self, record: Record) -> None:
        """Counts an image or a frame; tells about an image, and about a video that is over."""
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
        for clip, seen in self.clips.items():
            if not seen.told:
                seen.told = True
                if not self.silent:
                    say_result(f"{clip.name}  {seen.summary(clip)}")

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
        self._tell_clip()
        self.broken_sources.write(self.folder)
        if self.silent:
            print_json("infer", self._as_dict(weights))
            return
        if self.outputs is None:
            return
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
                    "frames": seen.frames,
                    "dropped": clip.dropped,
                    "rate": clip.rate,
                    "video": self.outputs.video_of(clip) if self.outputs else None,
                }
                for clip, seen in self.clips.items()
            ],
            "broken": self.broken_sources.entries(),
        }

    def raise_broken(self) -> None:
        """Raises a DataError that lists what could not be read, if there was any."""
        faults = self.broken_sources.faults
        moving = any(isinstance(p, str) or is_video_file(p) for p, _ in faults)
        self.broken_sources.raise_any(self.folder, moving=moving)


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
