"""`metrics.json`: what an evaluation says, key by key. `detrkit eval --json` prints the same, and
a training ends with that of its best epoch, in which speed and model are null.

Shares, precisions and APs are 0–1; -1 means that there is nothing to count, null that something
was not measured or does not exist. Areas are square pixels, times milliseconds. IoU is 0.5 where
nothing else is said. Keys may be added; one whose meaning changes raises `SCHEMA`.

The command adds what it measured: `weights` and `data`; `predictions`, the file it wrote;
`environment`, versions and hardware; `config`, the resolved YAML of the weights, null where they
carry none; of weights `broken`, files that could not be read and whose boxes count as missed, and
`images_per_second`, reading included; of a file of detections `rows`, and `left_out`, how many of
them for which reason: rows = detections + those left out.
"""

from __future__ import annotations

from typing import TypedDict

#: Version of the layout below.
SCHEMA = 1


class ClassJson(TypedDict):
    """COCO's numbers of a class."""

    name: str
    category_id: int | str
    images: int  # with a box of it
    boxes: int  # to find; crowd regions left out
    detections: int  # at any score
    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR100: float


class YoloRowJson(TypedDict):
    """A class, or all of them, at the table's confidence."""

    name: str
    images: int
    boxes: int
    true: int  # true + missed = boxes
    false: int
    missed: int
    precision: float
    recall: float
    f1: float
    map50: float
    map75: float
    map50_95: float
    best_confidence: float | None  # the threshold with the greatest F1 of this class
    best_f1: float


class BackgroundJson(TypedDict):
    """Images without a box to find, at the table's confidence."""

    images: int
    images_with_detections: int
    detections: int


class YoloJson(TypedDict):
    """Precision, recall, F1 and mAP (see `yolo_table`)."""

    confidence: float | None  # with the best mean F1; null without boxes
    overall: YoloRowJson
    classes: list[YoloRowJson]
    background: BackgroundJson


class CurvesJson(TypedDict):
    """Curves of the classes, in index order; means leave classes without boxes out."""

    recalls: list[float]  # 101
    precision_50: list[list[float]]  # (K, 101) COCO's envelope at IoU 0.5
    confidences: list[float]  # 101: every tenth threshold of those that were counted
    precision: list[list[float]]  # (K, 101) over confidence
    recall: list[list[float]]
    f1: list[list[float]]


class ConfusionJson(TypedDict):
    """Which class is taken for which (see `confusion`)."""

    confidence: float
    names: list[str]  # K
    counts: list[list[int]]  # (K + 1, K + 1) rows true, columns said; last: background, missed


class TideJson(TypedDict):
    """Error types of TIDE in points of 100 (see `tide`)."""

    ap: float
    cost: dict[str, float]  # Cls, Loc, Both, Dupe, Bkg, Miss
    counts: dict[str, int]
    false_positives: float
    false_negatives: float


class BinJson(TypedDict):
    """Detections of similar score."""

    low: float
    high: float
    detections: int
    score: float | None
    precision: float | None


class CalibrationJson(TypedDict):
    """Whether scores are probabilities (see `calibration`)."""

    ece: float
    ece_shown: float  # of detections with a score from 0.3 on
    greatest: float
    bins: list[BinJson]


class SizeJson(TypedDict):
    """Boxes of similar size."""

    name: str
    low: float
    high: float | None
    boxes: int
    found: int
    found_at_any: int
    recall: float
    recall_at_any: float


class DensityJson(TypedDict):
    """Images with a similar number of boxes."""

    low: int
    high: int | None
    images: int
    boxes: int
    found: int
    false: int
    recall: float
    precision: float


class BreakdownJson(TypedDict):
    """Recall by size and by density (see `breakdown`)."""

    confidence: float
    sizes: list[SizeJson]
    densities: list[DensityJson]


class CaseJson(TypedDict):
    """An error worth looking at; null where there is no detection or no label. Boxes are xywh."""

    score: float  # 0–1, by which cases of a kind are ranked
    image_id: int | str
    file: str | None
    annotation_id: int | None
    label: str | None  # the class annotated
    label_box: list[float] | None
    detected: str | None  # the class detected
    detected_box: list[float] | None
    confidence: float | None
    iou: float | None


class KindJson(TypedDict):
    """The worst cases of a kind."""

    total: int
    cases: list[CaseJson]  # the first hundred


class WorstJson(TypedDict):
    """Errors at the table's confidence, worst first (see `worst`, which says how they are ranked).

    The last three may be errors of the labels.
    """

    false_positive: KindJson
    miss: KindJson
    confusion: KindJson
    missing_label: KindJson
    wrong_class: KindJson
    unsupported: KindJson


class OverActivationLevelJson(TypedDict):
    """False detections from a score on."""

    threshold: float
    fppi: float  # per image
    clean_rate: float  # share of the images without any
    detections: int
    images_with_detections: int


class FalseClassJson(TypedDict):
    """A class that is detected where there is nothing."""

    name: str
    detections: int  # from score 0.1 on


class FalseImageJson(TypedDict):
    """An image in which something is detected from score 0.1 on."""

    file: str
    score: float  # the highest
    detected: str  # its class
    detected_box: list[float]  # and its place
    detections: int  # from score 0.1 on


class OverActivationJson(TypedDict):
    """Detections on images in which there is nothing to find (see `over_activation`)."""

    source: str
    images: int  # that could be read
    broken: list[str]  # that could not; they count nowhere
    confidence: float | None  # the threshold of the other tables, one of `levels`
    max_score: float  # of all images
    mean_max_score: float  # the highest of an image, on average
    levels: list[OverActivationLevelJson]  # by rising threshold
    classes: list[FalseClassJson]  # most first
    worst: list[FalseImageJson]  # by falling score, the first hundred


class SpeedJson(TypedDict):
    """Milliseconds per image; reading of files, which goes on beside, is not in them."""

    preprocess: float
    model: float
    postprocess: float
    total: float
    fps: float  # 1000 / total
    batch: int
    device: str
    images: int  # that were timed; the first batch warms up and is not


class ModelJson(TypedDict):
    """What the model costs."""

    file_bytes: int | None  # on disk, with external data
    parameters: int | None  # null where a kind of file does not say
    flops: int | None  # of one image, by calflops; see `detrkit info`; null for exported files
    macs: int | None
    input: list[int]  # (1, C, h, w)


class EvaluationJson(TypedDict):
    """The whole."""

    schema: int
    metrics: dict[str, float]  # COCO's twelve: AP, AP50, AP75, APs, …, ARl
    classes: list[ClassJson]
    images: int
    boxes: int
    detections: int
    backend: str
    yolo: YoloJson
    curves: CurvesJson
    confusion: ConfusionJson
    tide: TideJson
    calibration: CalibrationJson
    breakdown: BreakdownJson
    worst: WorstJson
    over_activation: OverActivationJson | None  # of --negatives
    speed: SpeedJson | None
    model: ModelJson | None
