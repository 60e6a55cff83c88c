"""Everything that one run of inference writes, by the names of `--save`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detrkit.engine.media.frame import Clip, Frame
from detrkit.engine.saving.drawn import Crops, Pictures, Style, Videos
from detrkit.engine.saving.lists import (
    CocoResults,
    CsvTable,
    JsonLines,
    MotText,
    Saver,
    YoloLabels,
)
from detrkit.engine.saving.record import Names, Record
from detrkit.errors import UsageError, did_you_mean
from detrkit.structures import ClassMap, Detections

#: What can be written, and what it is called in a summary.
KINDS = {
    "pictures": "pictures",
    "video": "videos",
    "jsonl": "detections.jsonl",
    "coco": "predictions.json",
    "yolo": "labels",
    "csv": "detections.csv",
    "crops": "crops",
    "mot": "mot",
}


def parse_kinds(text: str) -> tuple[str, ...]:
    """`pictures,coco` -> the kinds, each once.

    Raises:
        UsageError: one is not known, or none is given.
    """
    kinds = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(
                f"--save {kind}: nothing that is written has this name{did_you_mean(kind, KINDS)}",
                hint=f"there is: {', '.join(KINDS)}",
            )
    if not kinds:
        raise UsageError("--save needs a name", hint=f"there is: {', '.join(KINDS)}")
    return kinds


class Outputs:
    """Writes detections into a folder; a context that finishes all files when it is left.

    Args:
        folder: new and empty.
        kinds: of `KINDS`; None: JSON lines, and what is drawn in its own kind: pictures of
            pictures, videos of videos.
        draw: False leaves out pictures and videos.
        classes: of the detector.
        style: of the boxes.
    """

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[str] | None,
        classes: ClassMap,
        *,
        draw: bool = True,
        style: Style | None = None,
    ) -> None:
        self.folder = folder
        self.names = Names()
        #: Frames of videos become pictures only where that was asked for.
        self.frames_too = kinds is not None
        self.kinds = [
            kind
            for kind in (("pictures", "video", "jsonl") if kinds is None else kinds)
            if draw or kind not in ("pictures", "video")
        ]
        self._savers: list[Saver] = []
        self._videos: Videos | None = None
        style = style or Style()
        try:
            for kind in self.kinds:
                self._savers.append(self._saver(kind, classes, style))
        except BaseException:
            self._close(quietly=True)
            raise

    def _saver(self, kind: str, classes: ClassMap, style: Style) -> Saver:
        if kind == "video":
            self._videos = Videos(self.folder, self.names, style)
            return self._videos
        if kind == "pictures":
            return Pictures(style)
        if kind == "jsonl":
            return JsonLines(self.folder)
        if kind == "coco":
            return CocoResults(self.folder, classes)
        if kind == "yolo":
            return YoloLabels(self.folder, classes)
        if kind == "csv":
            return CsvTable(self.folder)
        return Crops(self.folder) if kind == "crops" else MotText(self.folder, self.names)

    def save(self, found: Detections, frame: Frame) -> Record:
        """Writes one image's detections; pictures follow a little later.

        Raises:
            DetrkitError: something cannot be written.
        """
        name = self.names.of(frame)
        record = Record(found, frame, name, self._picture(frame, name))
        for saver in self._savers:
            saver.save(record)
        return record

    def _picture(self, frame: Frame, name: str) -> Path | None:
        if "pictures" not in self.kinds:
            return None
        if frame.clip is None:
            return self.folder / f"{name}.jpg"
        folder = self.folder / self.names.of_clip(frame.clip)
        return folder / f"{name}.jpg" if self.frames_too else None

    def video_of(self, clip: Clip) -> Path | None:
        """The video that was written of a clip, once all is finished."""
        return self._videos.written.get(clip) if self._videos else None

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._close(quietly=error is not None)

    def _close(self, quietly: bool) -> None:
        """Closes everything; the first error counts, unless there is another one already."""
        first: BaseException | None = None
        for saver in self._savers:
            try:
                saver.close()
            except Exception as error:
                first = first or error
        if first is not None and not quietly:
            raise first
