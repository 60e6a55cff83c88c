"""One picture, and where it comes from: a file, memory, a video, a camera."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from torch import Tensor


@dataclass(eq=False)
class Clip:
    """A video or a live source.

    Attributes:
        name: the file, the address without its password, or "camera 0".
        rate: frames per second, on average and as far as it is known.
        frames: how many there will be, as far as it is known.
        live: frames come when they come, and those that nobody waits for are lost.
        time_base: seconds of one tick of its clock.
        audio: what to open for its sound; None where there is none to be had.
        dropped: frames of a live source that came while the detector was busy.
    """

    name: str
    rate: float | None = None
    frames: int | None = None
    live: bool = False
    time_base: Fraction = Fraction(1, 90_000)
    audio: str | None = None
    dropped: int = 0

    @property
    def stem(self) -> str:
        """For names of files: `clip` of `clip.mp4`, `rtsp_10.0.0.5_door` of an address."""
        if "://" not in self.name:
            return Path(self.name).stem.replace(" ", "_") if self.live else Path(self.name).stem
        return re.sub(r"[^\w.-]+", "_", self.name.split("?")[0]).strip("_.")[:80] or "stream"


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """A picture on its way through the detector.

    Attributes:
        image: (C, H, W) pixels as `detrkit.data.images.read_image` gives them.
        path: the file, or the name of the clip; None for pixels from memory.
        clip: what it is a frame of; None for a picture.
        number: in the clip, from 0, counting those that were passed over.
        seconds: since the first frame of the clip; increasing.
    """

    image: Tensor
    path: str | None = None
    clip: Clip | None = None
    number: int | None = None
    seconds: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) in pixels."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])
