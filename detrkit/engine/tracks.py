"""Objects keep their number from frame to frame, through the package `trackers`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detrkit.drawing import viewable
from detrkit.engine.media.frame import Frame
from detrkit.errors import MissingExtraError, UsageError, did_you_mean
from detrkit.ops.boxes import box_iou
from detrkit.structures import Detections

#: The package's class of each algorithm.
_CLASSES = {
    "bytetrack": "ByteTrackTracker",  # arXiv:2110.06864
    "botsort": "BoTSORTTracker",  # arXiv:2206.14651, without its appearance model
    "ocsort": "OCSORTTracker",  # arXiv:2203.14360
    "sort": "SORTTracker",  # arXiv:1602.00763
    "cbiou": "CBIoUTracker",  # arXiv:2211.14317
}

#: Boxes down to this score carry a track on; a new one begins at the user's score.
LOWEST_SCORE = 0.1
#: IoU from which on two boxes of a frame are one object, whatever their classes.
SAME_PLACE = 0.9
#: Frames per second, where nobody knows them.
_RATE = 30.0


def tracker_class(name: str) -> Callable[..., Any]:
    """The class of an algorithm.

    Raises:
        MissingExtraError: the package is not installed.
        UsageError: there is no such algorithm, or this version of the package lacks it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import trackers
    except ImportError as error:
        raise MissingExtraError("trackers", "track", "tracking") from error
    wanted = name.lower().replace("-", "").replace("_", "")
    there = [key for key, kind in _CLASSES.items() if hasattr(trackers, kind)]
    if wanted not in there:
        raise UsageError(
            f"no tracker `{name}` in the installed package `trackers`{did_you_mean(wanted, there)}",
            hint=f"there is: {', '.join(there)}",
        )
    kind: Callable[..., Any] = getattr(trackers, _CLASSES[wanted])
    return kind


class Tracking:
    """Numbers the objects of one sequence after the other.

    A sequence is a video, a live source, or the pictures of one folder that follow each other.

    Args:
        name: of the algorithm.
        conf: score from which on a box begins a track.
        step: every which frame of a video is seen.

    Raises:
        MissingExtraError, UsageError: of `tracker_class`.
    """

    def __init__(self, name: str, *, conf: float, step: int = 1) -> None:
        self._class = tracker_class(name)
        self._conf, self._step = conf, step
        self._sequence: object = None
        self._tracker: Any = None
        self._wants_frame = False

    def follow(self, found: Detections, frame: Frame) -> Detections:
        """The detections that belong to a track, with `track_ids`, best score first.

        Args:
            found: of the next frame, down to `LOWEST_SCORE`.
            frame: the picture.
        """
        import supervision

        found = found.select(_distinct(found.boxes_xyxy))
        sequence = sequence_of(frame)
        if self._tracker is None or sequence != self._sequence:
            self._tracker, self._sequence = self._new(frame), sequence
        rows = supervision.Detections(
            xyxy=np.asarray(found.boxes_xyxy, np.float32),
            confidence=found.scores,
            class_id=found.labels,
            data={"row": np.arange(len(found))},
        )
        picture = None
        if self._wants_frame:  # it follows the camera's motion; BGR, as OpenCV has it
            picture = np.ascontiguousarray(
                viewable(frame.image).permute(1, 2, 0).numpy()[..., ::-1]
            )
        answer = self._tracker.update(rows, picture, timestamp=frame.seconds)
        ids = np.asarray(answer.tracker_id, np.int64).reshape(-1)
        known = ids >= 0
        order = np.asarray(answer.data.get("row", ()), np.int64).reshape(-1)[known]
        sort = np.argsort(order, kind="stable")
        return replace(found.select(order[sort]), track_ids=ids[known][sort] + 1)

    def _new(self, frame: Frame) -> Any:
        rate = frame.clip.rate if frame.clip and frame.clip.rate else _RATE
        settings = {
            "frame_rate": rate / self._step,
            "track_activation_threshold": self._conf,
            "high_conf_det_threshold": self._conf,
        }
        known = inspect.signature(self._class).parameters
        self._wants_frame = "enable_cmc" in known
        return self._class(**{key: value for key, value in settings.items() if key in known})


def _distinct(boxes_xyxy: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Rows of boxes, best first, without those in the place of a better one.

    A DETR may give one box several classes; each would become a track of its own.
    """
    boxes = torch.from_numpy(boxes_xyxy)
    overlaps = box_iou(boxes, boxes)[0].numpy() >= SAME_PLACE
    kept: list[int] = []
    for row in range(len(boxes)):
        if not overlaps[row, kept].any():
            kept.append(row)
    return np.array(kept, np.int64)


def sequence_of(frame: Frame) -> object:
    """What a frame belongs together with."""
    if frame.clip is not None:
        return frame.clip
    return frame.path.replace("\\", "/").rpartition("/")[0] if frame.path else None
