"""Detections as text, written while they are found.

    detections.jsonl    one JSON object per image or frame
    predictions.json    COCO results; images.json says which image an `image_id` is
    detections.csv      one row per detection
    labels/NAME.txt     YOLO: `class cx cy w h`; the names are in labels/classes.txt
    mot/NAME.txt        MOTChallenge, one file per video or folder

`image_id` is the name of the file without its ending, as a number where it is one: that of COCO's
own pictures.
"""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from detrkit.engine.saving.record import Names, Record
from detrkit.engine.tracks import sequence_of
from detrkit.files import cannot_write, make_folder, open_atomically
from detrkit.structures import ClassMap

_COLUMNS = (
    *("image", "frame", "seconds", "label", "category_id", "score"),
    *("x1", "y1", "x2", "y2", "track_id"),
)


class Saver(ABC):
    """Takes records in the order of the sources."""

    @abstractmethod
    def save(self, record: Record) -> None:
        """Writes the detections of one image.

        Raises:
            DetrkitError: it cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Finishes the files; called once, after errors as well."""


class JsonLines(Saver):
    """`detections.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self._file = _Text(folder / "detections.jsonl")

    def save(self, record: Record) -> None:
        self._file.write(json.dumps(record.to_dict(), ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class CsvTable(Saver):
    """`detections.csv`, with a head; an image without detections has no row."""

    def __init__(self, folder: Path) -> None:
        self._file = _Text(folder / "detections.csv")
        self._row(_COLUMNS)

    def save(self, record: Record) -> None:
        found = record.found
        for i, name in enumerate(found.names):
            self._row(
                (
                    found.path,
                    found.frame,
                    None if found.seconds is None else round(found.seconds, 6),
                    name,
                    found.class_map.category_ids[found.labels[i]],
                    round(float(found.scores[i]), 6),
                    *(round(float(value), 3) for value in found.boxes_xyxy[i]),
                    None if found.track_ids is None else int(found.track_ids[i]),
                )
            )

    def _row(self, values: tuple[Any, ...]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        self._file.write(line.getvalue())

    def close(self) -> None:
        self._file.close()


class CocoResults(Saver):
    """`predictions.json`, as `detrkit eval --predictions` reads it, and `images.json`."""

    def __init__(self, folder: Path, classes: ClassMap) -> None:
        self._stack = ExitStack()
        self._results = self._open(folder / "predictions.json", "[\n", "\n]\n")
        categories = [
            {"id": number, "name": name}
            for number, name in zip(classes.category_ids, classes.names, strict=True)
        ]
        head = json.dumps({"categories": categories}, ensure_ascii=False)[:-1]
        self._images = self._open(folder / "images.json", f'{head}, "images": [\n', "\n]}\n")

    def _open(self, path: Path, head: str, tail: str) -> _Elements:
        return self._stack.enter_context(_elements(path, head, tail))

    def save(self, record: Record) -> None:
        found = record.found
        number: int | str = int(record.name) if _is_number(record.name) else record.name
        height, width = found.orig_size
        self._images.write(
            {"id": number, "file_name": found.path, "height": height, "width": width}
        )
        for entry in found.to_coco():
            self._results.write({**entry, "image_id": number})

    def close(self) -> None:
        self._stack.close()


class YoloLabels(Saver):
    """`labels/`, as YOLO's trainers read it: without scores."""

    def __init__(self, folder: Path, classes: ClassMap) -> None:
        self._folder = make_folder(folder / "labels")
        names = "".join(" ".join(name.split()) + "\n" for name in classes.names)
        _write_whole(self._folder / "classes.txt", names)

    def save(self, record: Record) -> None:
        _write_whole(self._folder / f"{record.name}.txt", record.found.to_yolo())

    def close(self) -> None:
        pass


class MotText(Saver):
    """`mot/`: the frames of a video, or the pictures of a folder, are a sequence."""

    def __init__(self, folder: Path, names: Names) -> None:
        self._folder = make_folder(folder / "mot")
        self._names, self._own = names, Names()
        self._sequence: object = None
        self._file: _Text | None = None
        self._count = 0

    def save(self, record: Record) -> None:
        frame, sequence = record.frame, sequence_of(record.frame)
        if self._file is None or sequence != self._sequence:
            self.close()
            if frame.clip is not None:
                name = self._names.of_clip(frame.clip)
            else:
                name = Path(str(sequence)).name if sequence else "images"
            self._file = _Text(self._folder / f"{self._own.unused(name)}.txt")
            self._sequence, self._count = sequence, 0
        self._count += 1
        number = self._count if frame.number is None else frame.number + 1
        self._file.write(record.found.to_mot(number))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Text:
    """A text file that grows; each piece is handed to the system at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: IO[str] = path.open("x", encoding="utf-8", newline="\n")
        except OSError as error:
            raise cannot_write(path, error) from error

    def write(self, text: str) -> None:
        try:
            self._file.write(_encodable(text))
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise cannot_write(self.path, error) from error


class _Elements:
    """The elements of a JSON list that is being written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._separator = ""

    def write(self, element: dict[str, Any]) -> None:
        text = self._separator + json.dumps(element, ensure_ascii=False)
        self._file.write(_encodable(text).encode())
        self._separator = ",\n"


@contextmanager
def _elements(path: Path, head: str, tail: str) -> Iterator[_Elements]:
    with open_atomically(path) as file:
        file.write(_encodable(head).encode())
        yield _Elements(file)
        file.write(tail.encode())


def _encodable(text: str) -> str:
    """File names may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode()


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _write_whole(path: Path, text: str) -> None:
    try:
        path.write_text(_encodable(text), encoding="utf-8", newline="\n")
    except OSError as error:
        path.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
