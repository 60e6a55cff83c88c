"""A teacher: frozen, in evaluation mode, without gradients.

It sees the student's augmented batch, brought to its own ImageSpec: normalisation is undone and
done anew, channels are reordered, and the batch is resized to the teacher's input. Its classes are
reduced to those that the student has as well, in the student's order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.distillation.losses.base import Edges
from detrkit.distillation.taps import Taps, split
from detrkit.errors import ConfigError
from detrkit.models.decoders.fdr import Refinement
from detrkit.models.decoders.refining import RefiningDecoder
from detrkit.models.decoders.two_stage import TwoStageDecoder
from detrkit.structures import ImageSpec

#: Module of a refining decoder that returns the edges' distributions.
_REFINEMENT = "decoder.decoder"


@dataclass
class Answers:
    """What a teacher says about a batch; float32, without gradient.

    Attributes:
        logits: (B, Q, K') class logits of the shared classes; None for a bare backbone.
        boxes: (B, Q, 4) boxes_cxcywh, 0–1; likewise.
        edges: of all B·Q queries; None where the teacher predicts boxes directly.
        maps: (B, C, h, w) by stage.
    """

    logits: Tensor | None = None
    boxes: Tensor | None = None
    edges: Edges | None = None
    maps: dict[str, Tensor] = field(default_factory=dict)


#: The student's batch (B, C, H, W) -> answers. Only a `DetectorTeacher` answers at given boxes too.
Teacher = Callable[[Tensor], Answers]


@dataclass(frozen=True)
class Respec:
    """Brings batches that were prepared for one model to what another one expects.

    Attributes:
        source: how the batches were prepared.
        target: what the other model expects.
        size: (h, w) to resize to; None: the batches' own, which vary with multi-scale training.

    Raises:
        ConfigError: the models take other numbers of channels.
    """

    source: ImageSpec
    target: ImageSpec
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.source.in_channels != self.target.in_channels:
            raise ConfigError(
                f"the student takes images of {self.source.in_channels} channels, the teacher of "
                f"{self.target.in_channels}",
                hint="distil from a teacher of as many channels",
            )

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, h, w) float32."""
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        a, b = self.source, self.target
        same = ("mean", "std", "scale", "channels")
        if all(getattr(a, name) == getattr(b, name) for name in same):
            return images
        pixels = (images * _column(a.std, images) + _column(a.mean, images)) / a.scale
        if a.channels != b.channels:
            pixels = pixels.flip(1)
        return (pixels * b.scale - _column(b.mean, images)) / _column(b.std, images)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(list(values)).view(-1, 1, 1)


class DetectorTeacher:
    """A detector as teacher.

    Args:
        model: on the device; is put into evaluation mode and wants no gradient any more.
        respec: the student's batches -> its own.
        classes: (K',) its indices of the classes that both have.
        stages: maps to answer with.
        probes: whether `at` will be called.
        autocast: the context of its forward pass.

    Raises:
        ConfigError: `at` will be called, but its decoder takes no queries.
    """

    def __init__(
        self,
        model: nn.Module,
        respec: Respec,
        classes: Tensor,
        stages: Sequence[str] = (),
        probes: bool = False,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.respec = respec
        self.classes = classes
        self.stages = tuple(stages)
        self.autocast = autocast
        decoder = getattr(model, "decoder", None)
        self.refining = decoder if isinstance(decoder, RefiningDecoder) else None
        self.decoder = queried_decoder(model, "teacher") if probes else None
        self._projections = projections(self.decoder) if self.decoder is not None else ()
        self.taps = Taps(
            [
                *(split(stage)[0] for stage in self.stages),
                *self._projections,
                *self._refinement,
            ]
        )

    @property
    def _refinement(self) -> tuple[str, ...]:
        return (_REFINEMENT,) if self.refining is not None else ()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Answers:
        with self.taps.watching(self.model), self.autocast():
            outputs = self.model(self.respec(images))
        answers = self._answers(outputs)
        answers.maps = {stage: self.taps.map(stage).float() for stage in self.stages}
        return answers

    @torch.no_grad()
    def at(self, boxes_cxcywh: Tensor) -> Answers:
        """Answers for the last batch at given boxes (B, P, 4)."""
        assert self.decoder is not None
        maps = [self.taps.seen[name] for name in self._projections]
        again = Taps(self._refinement)
        with again.watching(self.model), self.autocast():
            outputs = self.decoder.decode_at(maps, boxes_cxcywh)
        self.taps.seen |= again.seen
        return self._answers(outputs)

    def _answers(self, outputs: Any) -> Answers:
        logits = outputs["pred_logits"].float()[..., self.classes]
        edges = None
        if self.refining is not None:
            refined: Refinement = self.taps.seen[_REFINEMENT]
            edges = edges_of(
                refined.corners[-1],
                refined.reference,
                self.refining.up,
                self.refining.reg_scale,
            )
        return Answers(logits, outputs["pred_boxes"].float(), edges)


class BackboneTeacher:
    """A bare backbone as teacher: a foundation model. It has maps and no detections.

    Args:
        backbone: images -> maps, finest first; on the device.
        respec: the student's batches -> its own.
        stages: `backbone.N` each.
        autocast: the context of its forward pass.
    """

    def __init__(
        self,
        backbone: nn.Module,
        respec: Respec,
        stages: Sequence[str],
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model = BareBackbone(backbone).eval().requires_grad_(False)
        self.respec = respec
        self.stages = tuple(stages)
        self.autocast = autocast
        self.taps = Taps(["backbone"])

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Answers:
        with self.taps.watching(self.model), self.autocast():
            self.model(self.respec(images))
        return Answers(maps={stage: self.taps.map(stage).float() for stage in self.stages})


class BareBackbone(nn.Module):
    """A backbone in the place that it has in a detector.

    Args:
        backbone: images -> maps.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Any:
        """images -> maps."""
        return self.backbone(images)


class AsDetector(nn.Module):
    """A teacher as a detector of the student's classes, for the evaluator.

    Args:
        teacher: answers with detections.
        columns: (K',) the student's indices of the shared classes.
        num_classes: K of the student.
    """

    def __init__(self, teacher: Teacher, columns: Tensor, num_classes: int) -> None:
        super().__init__()
        self.teacher = teacher
        self.columns = columns
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The student's images -> `pred_logits` (B, Q, K), `pred_boxes` (B, Q, 4)."""
        answers = self.teacher(images)
        assert answers.logits is not None
        assert answers.boxes is not None
        logits = answers.logits.new_full((*answers.logits.shape[:2], self.num_classes), -1e4)
        logits[..., self.columns] = answers.logits
        return {"pred_logits": logits, "pred_boxes": answers.boxes}


def queried_decoder(model: nn.Module, whose: str) -> TwoStageDecoder:
    """The decoder of a detector, where it answers at given boxes too.

    Args:
        model: a detector.
        whose: "teacher" or "student".

    Raises:
        ConfigError: it does not.
    """
    decoder = getattr(model, "decoder", None)
    if not isinstance(decoder, TwoStageDecoder):
        raise ConfigError(f"distillation: the {whose}'s decoder takes no shared queries (probes)")
    return decoder


def projections(decoder: TwoStageDecoder) -> tuple[str, ...]:
    """Names in its detector of the modules whose outputs a decoder's layers look at, in order."""
    return tuple(f"decoder.input_proj.{i}" for i in range(len(decoder.input_proj)))


def edges_of(corners: Tensor, references: Tensor, up: Tensor, reg_scale: Tensor) -> Edges:
    """(B, Q, 4·(R+1)) logits and (B, Q, 4) reference boxes -> edges of all B·Q queries."""
    logits = corners.float().flatten(0, 1)
    return Edges(
        logits.view(len(logits), 4, -1),
        references.detach().float().flatten(0, 1),
        up.detach(),
        reg_scale.detach(),
    )
