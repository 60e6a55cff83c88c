"""Detections as pictures, made beside the detector.

    NAME.jpg            an image with its boxes; NAME/NAME_000001.jpg a frame
    NAME.mp4            a video with its boxes
    crops/CLASS/…jpg    what is inside each box

Pictures are drawn and encoded by several threads, the frames of a video by one, in order.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from detrkit.drawing import draw_detections, to_picture, viewable
from detrkit.engine.media.background import Workers
from detrkit.engine.media.frame import Clip
from detrkit.engine.media.video_writer import VideoWriter
from detrkit.engine.saving.lists import Saver
from detrkit.engine.saving.record import Names, Record
from detrkit.files import cannot_write

#: Of JPEG, 1–100.
_QUALITY = 92
#: Threads that draw pictures.
_DRAWERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Style:
    """How boxes are drawn; None: by the size of the picture.

    Attributes:
        font_size: height of the letters in pixels.
        line_width: of the boxes, in pixels.
    """

    font_size: int | None = None
    line_width: int | None = None

    def draw(self, record: Record) -> Image.Image:
        """The picture with its boxes."""
        return draw_detections(
            record.found,
            viewable(record.frame.image),
            font_size=self.font_size,
            line_width=self.line_width,
        )


class Pictures(Saver):
    """Draws what has a place for its picture.

    Args:
        style: of the boxes.
    """

    def __init__(self, style: Style) -> None:
        self._style = style
        self._workers = Workers(_DRAWERS, 2 * _DRAWERS)

    def save(self, record: Record) -> None:
        if record.picture is not None:
            self._workers.submit(self._draw, record, record.picture)

    def _draw(self, record: Record, path: Path) -> None:
        save_jpeg(self._style.draw(record), path)

    def close(self) -> None:
        self._workers.finish()


class Videos(Saver):
    """Draws the frames of videos and writes them as videos.

    Args:
        folder: of the run.
        names: of the videos.
        style: of the boxes.
    """

    def __init__(self, folder: Path, names: Names, style: Style) -> None:
        self._folder, self._names, self._style = folder, names, style
        self._workers = Workers(1, 8)
        self._clip: Clip | None = None
        self._writer: VideoWriter | None = None
        self.written: dict[Clip, Path] = {}

    def save(self, record: Record) -> None:
        if record.frame.clip is not None:
            self._workers.submit(self._write, record, record.frame.clip)
        elif self._clip is not None:  # a picture after a video
            self._workers.submit(self._finish)

    def _write(self, record: Record, clip: Clip) -> None:
        if clip is not self._clip:
            self._finish()
            self._clip = clip
            path = self._folder / f"{self._names.of_clip(clip)}.mp4"
            self._writer = VideoWriter(path, clip, record.frame.size)
        assert self._writer is not None
        self._writer.write(np.asarray(self._style.draw(record)), record.frame.seconds or 0.0)

    def _finish(self) -> None:
        writer, clip = self._writer, self._clip
        self._writer = self._clip = None
        if writer is not None and clip is not None:
            writer.close()
            self.written[clip] = writer.path

    def close(self) -> None:
        try:
            self._workers.submit(self._finish)
        finally:
            self._workers.finish()


class Crops(Saver):
    """`crops/CLASS/NAME_1.jpg`, …: the insides of the boxes, undrawn."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "crops"
        self._workers = Workers(_DRAWERS, 2 * _DRAWERS)

    def save(self, record: Record) -> None:
        self._workers.submit(self._write, record)

    def _write(self, record: Record) -> None:
        found, names = record.found, record.found.names
        if not names:
            return
        picture = to_picture(viewable(record.frame.image))
        limits = np.array([picture.width, picture.height] * 2)
        boxes = np.clip(np.nan_to_num(found.boxes_xyxy), 0, limits)
        corners = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], 1).astype(int)
        for number, (name, corner) in enumerate(zip(names, corners.tolist(), strict=True), 1):
            left, top, right, bottom = corner
            if right > left and bottom > top:
                folder = self._folder / _folder_name(name, int(found.labels[number - 1]))
                path = folder / f"{record.name}_{number}.jpg"
                save_jpeg(picture.crop((left, top, right, bottom)), path)

    def close(self) -> None:
        self._workers.finish()


def save_jpeg(picture: Image.Image, path: Path) -> None:
    """Writes a JPEG file, with its folder; no half file is left where that fails.

    Raises:
        DetrkitError: it cannot be written.
    """
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=_QUALITY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.getvalue())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def _folder_name(name: str, label: int) -> str:
    """A class name as the name of a folder on any system."""
    plain = re.sub(r'[\x00-\x1f<>:"/\\|?*]+', "_", name).strip(". ")
    return plain[:80] or f"class {label}"
