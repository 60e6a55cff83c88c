"""The `distillation` section of a configuration.

    distillation:
      teacher: deimv2_s_coco            # configuration, where the weights carry none
      weights: teacher/best.pth         # or an .onnx file, for `mode: logit`
      mode: both                        # feature, logit or both
      features:
        - {loss: PKD, stage: encoder}
        - {loss: {type: CWD, tau: 2.0}, stage: backbone.1, teacher_stage: backbone.2, weight: 5}
      logit: {classes: QualityFocal, queries: 100, layers: last}
      probes: 100                       # shared queries (KD-DETR)
      start_epoch: 0
      stop_epoch: 40                    # first epoch without; the teacher is freed
      foundation: {type: TimmBackbone, name: vit_small_patch16_dinov3, return_idx: [-1]}

Epochs count from 0. The constructor is the schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from detrkit.distillation.schedule import Decay, Window
from detrkit.errors import ConfigError, did_you_mean
from detrkit.registry import MODULES

#: What a model is taught where the section names no feature loss.
DEFAULT_FEATURES: tuple[dict[str, Any], ...] = ({"loss": "PKD", "stage": "encoder"},)
#: What a foundation model teaches where nothing else is said.
FOUNDATION_FEATURES: tuple[dict[str, Any], ...] = (
    {"loss": "FeatureCosine", "stage": "encoder.-1", "teacher_stage": "backbone.-1"},
)
_FEATURE_KEYS = ("loss", "stage", "teacher_stage", "weight")
_LOGIT_KEYS = (
    "classes", "localisation", "queries", "layers", "weight_class", "weight_bbox", "weight_giou",
    "weight_ld",
)  # fmt: skip


@MODULES.register(family="distillation")
@dataclass(frozen=True)
class Distillation:
    """The `distillation` section: teacher, losses, schedule.

    Attributes:
        teacher: configuration or catalogue name; None: the one that the weights carry.
        weights: a checkpoint, or an ONNX file for `mode: logit`.
        mode: "feature": maps; "logit": classes and boxes; "both".
        features: mappings with `loss` (a name, or a mapping with `type`), `stage` of the student,
            `teacher_stage` (default: the same) and `weight`; None: PKD on the encoder.
        logit: `classes` and `localisation` (losses), `queries` (of the teacher, per image),
            `layers` ("last" or "all"), `weight_class`, `weight_bbox`, `weight_giou`, `weight_ld`.
        probes: shared queries per image, half of them at random places; 0: none.
        foundation: a backbone, as a mapping with `type`, in the place of a detector.
        foundation_images: `size`, `mean` and `std` of its images; default: the student's size,
            ImageNet's colours.
        weight: factor on all terms.
        start_epoch: first epoch with distillation.
        stop_epoch: first epoch without it again; None: the end of the run.
        warmup_epochs: over which the factor rises from 0.
        decay: how it falls to 0 towards `stop_epoch`.
        decay_epochs: over so many epochs; None: from the warm-up on.
        teacher_ema: the averaged weights of the teacher's checkpoint.
        teacher_size: "own": the batch is resized to the teacher's input; "student": it is not.
        adapter_lr: rate of the adapters; None: the optimizer's own.
        preflight: validation images on which the teacher is measured before the run; 0: none.
        ratio_every: steps between two measurements of the gradients' ratio; 0: none.
        cache_mb: main memory of a process for the teacher's answers to pictures that come again,
            pixel by pixel: for training without random transforms; 0: none.
    """

    teacher: str | None = None
    weights: str | None = None
    mode: Literal["feature", "logit", "both"] = "both"
    features: Sequence[Mapping[str, Any]] | None = None
    logit: Mapping[str, Any] = field(default_factory=dict)
    probes: int = 0
    foundation: Mapping[str, Any] | None = None
    foundation_images: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    start_epoch: int = 0
    stop_epoch: int | None = None
    warmup_epochs: float = 0.0
    decay: Decay = "none"
    decay_epochs: float | None = None
    teacher_ema: bool = True
    teacher_size: Literal["own", "student"] = "own"
    adapter_lr: float | None = None
    preflight: int = 500
    ratio_every: int = 50
    cache_mb: float = 0.0

    def __post_init__(self) -> None:
        if self.weights is None and self.foundation is None:
            raise ConfigError(
                "distillation: no teacher",
                hint="name its weights: --teacher-weights best.pth; or a backbone: --foundation",
            )
        if self.weights is not None and self.foundation is not None:
            raise ConfigError("distillation: `weights` and `foundation` are two teachers; keep one")
        if self.foundation is not None and self.learns_logits:
            raise ConfigError(
                "distillation: a foundation model has no detections to learn from",
                hint="mode: feature",
            )
        if self.is_onnx and self.learns_features:
            raise ConfigError(
                f"distillation: {self.weights} is an ONNX file, whose feature maps are not to be "
                "seen",
                hint="mode: logit, or the checkpoint that the file was made from",
            )
        if self.probes and (self.is_onnx or not self.learns_logits):
            raise ConfigError(
                "distillation: shared queries (probes) need a checkpoint as teacher, and mode "
                "logit or both"
            )
        numbers = ("weight", "probes", "preflight", "ratio_every", "cache_mb")
        if any(getattr(self, name) < 0 for name in numbers):
            raise ConfigError(f"distillation: {', '.join(numbers)} must not be negative")
        if self.probes and self.cache_mb:
            raise ConfigError(
                "distillation: shared queries (probes) are drawn anew in every step: there is no "
                "answer to keep (cache_mb)",
                hint="leave one of them out",
            )
        for number, feature in enumerate(self.features or ()):
            _known(f"features[{number}]", feature, _FEATURE_KEYS, ("loss",))
        _known("logit", self.logit, _LOGIT_KEYS)
        _known("foundation_images", self.foundation_images, ("size", "mean", "std"))

    @property
    def is_onnx(self) -> bool:
        """Whether the teacher is an ONNX file."""
        return str(self.weights or "").lower().endswith(".onnx")

    @property
    def learns_features(self) -> bool:
        """Whether feature maps are compared."""
        return self.mode in ("feature", "both")

    @property
    def learns_logits(self) -> bool:
        """Whether detections are compared."""
        return self.mode in ("logit", "both")

    @property
    def chosen_features(self) -> Sequence[Mapping[str, Any]]:
        """`features`, or the default."""
        if not self.learns_features:
            return ()
        default = DEFAULT_FEATURES if self.foundation is None else FOUNDATION_FEATURES
        return default if self.features is None else self.features

    def window(self, epochs: int) -> Window:
        """The schedule in a run of so many epochs."""
        stop = epochs if self.stop_epoch is None else min(self.stop_epoch, epochs)
        return Window(self.start_epoch, stop, self.warmup_epochs, self.decay, self.decay_epochs)


def _known(where: str, given: Any, known: Sequence[str], needed: Sequence[str] = ()) -> None:
    if not isinstance(given, Mapping):
        raise ConfigError(f"distillation.{where}: expected a mapping, got {given!r}")
    for name in given:
        if name not in known:
            raise ConfigError(
                f"distillation.{where}: unknown `{name}`{did_you_mean(str(name), known)}",
                hint=f"known are {', '.join(known)}",
            )
    for name in needed:
        if name not in given:
            raise ConfigError(f"distillation.{where}: needs `{name}`")
