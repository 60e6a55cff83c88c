"""One image with what was found in it, and the name that all its files share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.engine.media.frame import Clip, Frame
from detrkit.structures import Detections


@dataclass(frozen=True, slots=True)
class Record:
    """What is saved.

    Attributes:
        found: the detections.
        frame: the picture.
        name: without an ending, not shared with another image: `a`, `a-2`, `clip_000012`.
        picture: where it is drawn to, if it is.
    """

    found: Detections
    frame: Frame
    name: str
    picture: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """A plain description, for JSON."""
        entry = self.found.to_dict()
        if self.picture is not None:
            entry["picture"] = str(self.picture)
        return entry


class Names:
    """Gives out names that no two things share, also on file systems that are blind to case."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}
        self._clips: dict[Clip, str] = {}

    def of(self, frame: Frame) -> str:
        """The name of an image."""
        if frame.clip is not None:
            return f"{self.of_clip(frame.clip)}_{(frame.number or 0) + 1:06d}"
        return self.unused(Path(frame.path).stem if frame.path else "image")

    def of_clip(self, clip: Clip) -> str:
        """The name of a video, the same every time."""
        if clip not in self._clips:
            self._clips[clip] = self.unused(clip.stem)
        return self._clips[clip]

    def unused(self, stem: str) -> str:
        """`a`, or `a-2` where that is taken."""
        key, name = stem.lower(), stem
        number = self._used.get(key, 1)
        while name.lower() in self._used:
            number += 1
            name = f"{stem}-{number}"
        self._used[key] = number
        self._used.setdefault(name.lower(), 1)
        return name
