"""What a detector found in one image; the same class for every runtime and for the API."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from detrkit.errors import MissingExtraError
from detrkit.structures.class_map import ClassMap

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class Detection:
    """One of `Detections`, in plain numbers.

    Attributes:
        box_xyxy: corners in pixels of the original image.
        score: 0–1.
        label: contiguous class index from 0.
        name: of the class.
        category_id: the data set's own id of the class.
        track_id: None without tracking.
    """

    box_xyxy: tuple[float, float, float, float]
    score: float
    label: int
    name: str
    category_id: int | str
    track_id: int | None = None


@dataclass(slots=True, repr=False)
class Detections:
    """Boxes, scores and labels of one image, best score first.

        for detection in detections.filter(conf=0.5, classes=["cat"]):
            print(detection.name, detection.score, detection.box_xyxy)

    Attributes:
        boxes_xyxy: (N, 4) float32, corners in pixels of the original image.
        scores: (N,) float32, 0–1.
        labels: (N,) int64, contiguous class indices from 0.
        class_map: names and the data set's category ids.
        orig_size: (h, w) of the image in pixels.
        image_id: the data set's id of the image, if it comes from one.
        path: the image file, if there is one.
        track_ids: (N,) int64 from 1 on, or None without tracking.
        frame: number in the video, from 0; None for a picture.
        seconds: of that frame since the first one.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    class_map: ClassMap
    orig_size: tuple[int, int] = (0, 0)
    image_id: int | str | None = None
    path: str | None = None
    track_ids: npt.NDArray[np.int64] | None = None
    frame: int | None = None
    seconds: float | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, at: int) -> Detection: ...
    @overload
    def __getitem__(self, at: slice | npt.NDArray[Any]) -> Detections: ...
    def __getitem__(self, at: int | slice | npt.NDArray[Any]) -> Detection | Detections:
        """One detection by its number, or those at a slice, a mask or indices."""
        if isinstance(at, slice | np.ndarray):
            return self.select(at)
        label = int(self.labels[at])
        x1, y1, x2, y2 = self.boxes_xyxy[at].tolist()
        return Detection(
            box_xyxy=(x1, y1, x2, y2),
            score=float(self.scores[at]),
            label=label,
            name=self.class_map.names[label],
            category_id=self.class_map.category_ids[label],
            track_id=None if self.track_ids is None else int(self.track_ids[at]),
        )

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in Counter(self.names).most_common())
        height, width = self.orig_size
        where = f" of {self.path}" if self.path else ""
        return f"<Detections{where}, {height}x{width}: {counts or 'nothing'}>"

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.class_map.names[i] for i in self.labels]

    def select(self, keep: slice | npt.NDArray[Any]) -> Detections:
        """The detections at a boolean mask, at indices or at a slice."""
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[keep],
            scores=self.scores[keep],
            labels=self.labels[keep],
            track_ids=None if self.track_ids is None else self.track_ids[keep],
        )

    def above(self, score: float) -> Detections:
        """The detections that score at least `score`."""
        return self.select(self.scores >= score)

    def filter(
        self,
        *,
        conf: float = 0.0,
        classes: Sequence[str | int] | None = None,
        max_det: int | None = None,
    ) -> Detections:
        """The best detections of some classes.

        Args:
            conf: lowest score.
            classes: names or indices; None: all.
            max_det: at most so many; None: all.

        Raises:
            UsageError: a class is not known.
        """
        keep = self.scores >= conf
        if classes is not None:
            keep &= np.isin(self.labels, self.class_map.indices(classes))
        return self.select(np.flatnonzero(keep)[:max_det])

    def to_coco(self) -> list[dict[str, Any]]:
        """COCO result entries: `image_id`, `category_id` (the data set's own), `bbox`, `score`.

        `bbox` is [x, y, w, h] in pixels.
        """
        x1, y1, x2, y2 = self.boxes_xyxy.T.tolist() if len(self) else ([], [], [], [])
        return [
            {
                "image_id": self.image_id,
                "category_id": self.class_map.category_ids[label],
                "bbox": [a, b, c - a, d - b],
                "score": score,
            }
            for label, a, b, c, d, score in zip(
                self.labels.tolist(), x1, y1, x2, y2, self.scores.tolist(), strict=True
            )
        ]

    def to_dict(self) -> dict[str, Any]:
        """A plain description of the image and its detections."""
        objects: list[dict[str, Any]] = []
        for i, name in enumerate(self.names):
            item: dict[str, Any] = {
                "label": name,
                "category_id": self.class_map.category_ids[self.labels[i]],
                "score": round(float(self.scores[i]), 6),
                "box_xyxy": [round(float(v), 3) for v in self.boxes_xyxy[i]],
            }
            if self.track_ids is not None:
                item["track_id"] = int(self.track_ids[i])
            objects.append(item)
        moment: dict[str, Any] = {}
        if self.frame is not None:
            moment = {"frame": self.frame, "seconds": round(self.seconds or 0.0, 6)}
        return {
            "image": self.path,
            "image_id": self.image_id,
            **moment,
            "height": self.orig_size[0],
            "width": self.orig_size[1],
            "detections": objects,
        }

    def to_json(self) -> str:
        """`to_dict` as one line of JSON, UTF-8 text unescaped."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_yolo(self) -> str:
        """Lines `class cx cy w h` of a YOLO label file: fractions of the image, without scores.

        Boxes are cut off at the border; what lies outside is left out.
        """
        height, width = self.orig_size
        lines = []
        for label, box in zip(self.labels.tolist(), self.boxes_xyxy.tolist(), strict=True):
            x1, x2 = (min(max(x / max(width, 1), 0.0), 1.0) for x in box[0::2])
            y1, y2 = (min(max(y / max(height, 1), 0.0), 1.0) for y in box[1::2])
            if x2 > x1 and y2 > y1:
                values = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
                lines.append(f"{label} {' '.join(f'{value:.6f}' for value in values)}\n")
        return "".join(lines)

    def to_mot(self, frame: int) -> str:
        """Lines `frame,id,left,top,width,height,score,-1,-1,-1` of a MOTChallenge file.

        Args:
            frame: its number, from 1. The id is -1 without tracking.
        """
        ids = self.track_ids.tolist() if self.track_ids is not None else [-1] * len(self)
        return "".join(
            f"{frame},{track},{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f},{score:.4f},-1,-1,-1\n"
            for track, (x1, y1, x2, y2), score in zip(
                ids, self.boxes_xyxy.tolist(), self.scores.tolist(), strict=True
            )
        )

    def to_supervision(self) -> Any:
        """As `supervision.Detections`, with the class names in `data["class_name"]`.

        Raises:
            MissingExtraError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise MissingExtraError("supervision", None, "Detections.to_supervision") from error
        return supervision.Detections(
            xyxy=self.boxes_xyxy,
            confidence=self.scores,
            class_id=self.labels,
            tracker_id=self.track_ids,
            data={"class_name": np.array(self.names, dtype=str)},  # text without any as well
        )

    def draw(self, image: Image.Image | None = None, **style: Any) -> Image.Image:
        """A copy of `image` (default: the file at `path`) with boxes, names and scores.

        Args:
            image: the picture in its original size.
            style: arguments of `detrkit.drawing.draw_detections`.
        """
        from detrkit.drawing import draw_detections

        return draw_detections(self, image, **style)
