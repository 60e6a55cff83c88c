"""Which query the criterion of a training gives to which box of fixed images, layer by layer.

What the criterion judges is matched as in a training step (`SetCriterion.match`), with the cost of
the epoch, yet on images that stay the same: without augmentation, and without denoising queries,
which know their boxes.

Shape legend: N images, T boxes of all images, S judged outputs (encoder, head before refinement,
decoder layers), Q queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detrkit.data.index import DatasetIndex
from detrkit.errors import DataError, UsageError
from detrkit.explain.decoder_trace import DecoderTrace, judged_outputs
from detrkit.explain.images import Shown, batches_of
from detrkit.losses.criterion import SetCriterion
from detrkit.losses.judged import decoder_outputs, encoder_outputs
from detrkit.losses.matches import Pairs
from detrkit.models.decoders.rtdetr import RTDETRTransformer
from detrkit.models.decoders.two_stage import TwoStageDecoder
from detrkit.ops.boxes import cxcywh_to_xyxy, paired_iou
from detrkit.structures import ImageSpec

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: Of a box that got no query: there are more boxes than queries.
NONE = -1


@dataclass(frozen=True)
class Matches:
    """Who answers for the T boxes of N images, by each of S outputs.

    Attributes:
        outputs: names of the S outputs: "encoder", "before refinement", "layer 1", …
        queries: (S, T) number of the query; NONE without one.
        places: (S, T) position of the encoder's maps that it comes from (`Decoded.places`).
        iou: (S, T) overlap of its box with the true one; NaN without a query.
        scores: (S, T) its score of the true class, 0–1 (of "object", where the encoder scores
            nothing else); NaN without a query.
        start: (T, 4) box that the last layer's query started from, cxcywh in 0–1 of the input.
        boxes: (T, 4) box of the last layer's query, likewise.
    """

    PER_OUTPUT: ClassVar = ("queries", "places", "iou", "scores")
    PER_BOX: ClassVar = ("start", "boxes")

    outputs: tuple[str, ...]
    queries: Ints
    places: Ints
    iou: Floats
    scores: Floats
    start: Floats
    boxes: Floats

    @classmethod
    def joined(cls, parts: list[Matches]) -> Matches:
        """Those of several batches."""
        whole = {n: np.concatenate([getattr(p, n) for p in parts], 1) for n in cls.PER_OUTPUT}
        whole |= {n: np.concatenate([getattr(p, n) for p in parts]) for n in cls.PER_BOX}
        return cls(parts[0].outputs, **whole)


@dataclass(frozen=True)
class Truth:
    """The boxes that are matched, and the images that they are in.

    Attributes:
        index: of the N images that could be read.
        sizes: (N, 2) h, w of the pictures.
        offsets: (N + 1,) the boxes of image i are `offsets[i]:offsets[i + 1]`.
        boxes: (T, 4) cxcywh in 0–1 of the input.
        labels: (T,) class indices.
    """

    index: DatasetIndex
    sizes: Ints
    offsets: Ints
    boxes: Floats
    labels: Ints

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the N images."""
        return tuple(self.index.paths)

    @property
    def images(self) -> Ints:
        """(T,) image of each box."""
        return np.repeat(np.arange(len(self.index)), np.diff(self.offsets))


def match_images(
    model: nn.Module,
    criterion: nn.Module,
    index: DatasetIndex,
    spec: ImageSpec,
    *,
    epoch: int = 0,
    batch: int = 8,
    device: torch.device | str = "cpu",
) -> tuple[Matches, Truth]:
    """Matches the boxes of a data set.

    Args:
        model: a detector that is not deployed, in evaluation mode, on `device`.
        criterion: of its training.
        index: the images; their classes are the model's.
        spec: how they become its input.
        epoch: from 0; the matcher's cost may depend on it.
        batch: images per forward pass.
        device: where the model is.

    Raises:
        UsageError: the decoder or the criterion is none of detrkit's.
        DataError: a label that the model has no class for; no image can be read.
    """
    if not isinstance(criterion, SetCriterion):
        raise UsageError(
            f"the criterion {type(criterion).__name__} cannot be asked for its matches",
            hint="derive it from detrkit.losses.criterion.SetCriterion",
        )
    parts: list[Matches] = []
    seen: list[Shown] = []
    with torch.no_grad(), judged_outputs(model), DecoderTrace(model) as trace:
        for shown in batches_of(index, spec, batch):
            if not shown:
                continue
            targets = [image.target.to(device) for image in shown]
            outputs = model(torch.stack([image.input for image in shown]).to(device), targets)
            named = judged_by_name(outputs, trace.decoder)
            matched = criterion.match(outputs, targets, epoch).own
            parts.append(
                _matches(
                    {name: (output, matched[suffix]) for name, suffix, output in named},
                    shown, trace.last.places, trace.last.start, softmax=not _sigmoid(criterion),
                )
            )  # fmt: skip
            seen += shown
    if not parts:
        raise DataError(f"{index.source}: none of its {len(index)} images can be read")
    truth = Truth(
        index=index.subset([image.number for image in seen]),
        sizes=np.array([image.size for image in seen], np.int64).reshape(-1, 2),
        offsets=np.concatenate([[0], np.cumsum([len(s.target) for s in seen])]).astype(np.int64),
        boxes=np.concatenate([s.target.boxes_cxcywh.numpy() for s in seen]),
        labels=np.concatenate([s.target.labels.numpy() for s in seen]),
    )
    return Matches.joined(parts), truth


def judged_by_name(
    outputs: Mapping[str, Any], decoder: TwoStageDecoder
) -> list[tuple[str, str, Mapping[str, Tensor]]]:
    """What is judged, from the encoder to the last layer: name, suffix of its losses, output."""
    decoded, encoded = decoder_outputs(outputs), encoder_outputs(outputs)
    layers = [suffix for suffix in decoded if suffix.startswith("_aux_")]
    # the first RT-DETR lists the encoder's answers behind those of its layers
    of_encoder = [layers.pop()] if isinstance(decoder, RTDETRTransformer) and layers else []
    named = [("encoder", suffix) for suffix in [*encoded, *of_encoder]]
    named += [("before refinement", "_pre")] if "_pre" in decoded else []
    named += [(f"layer {n}", suffix) for n, suffix in enumerate([*layers, ""], 1)]
    every = {**decoded, **encoded}
    return [(name, suffix, every[suffix]) for name, suffix in named]


def _sigmoid(criterion: SetCriterion) -> bool:
    return bool(getattr(criterion.matcher, "use_focal_loss", True))


def _matches(
    judged: Mapping[str, tuple[Mapping[str, Tensor], Pairs]],
    shown: list[Shown],
    places: Tensor,
    start: Tensor,
    *,
    softmax: bool,
) -> Matches:
    """Matches of one batch.

    Args:
        judged: output and pairs by name, the last layer's last.
        shown: the images.
        places: (B, Q) where the queries come from.
        start: (B, Q, 4) boxes that they start from.
        softmax: how logits become scores.
    """
    true = torch.cat([image.target.boxes_cxcywh for image in shown])
    labels = torch.cat([image.target.labels for image in shown])
    count, queries = len(labels), places.shape[1]
    rows: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in Matches.PER_OUTPUT}
    for output, pairs in judged.values():
        asked, boxes = torch.from_numpy(pairs.queries), torch.from_numpy(pairs.targets)
        logits = output["pred_logits"].float().cpu().flatten(0, 1)[asked]
        score = logits.softmax(-1) if softmax else logits.sigmoid()
        own = labels[boxes].clamp(max=score.shape[-1] - 1)
        predicted = output["pred_boxes"].float().cpu().flatten(0, 1)[asked]
        found = {
            "queries": asked % queries,
            "places": places.cpu().flatten()[asked],
            "iou": paired_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(true[boxes])),
            "scores": score.gather(1, own[:, None])[:, 0],
        }
        for name, values in found.items():
            row = torch.full((count,), NONE if not values.is_floating_point() else torch.nan)
            row = row.to(values.dtype)
            row[boxes] = values
            rows[name].append(row.numpy())
    last = {"start": start.cpu().flatten(0, 1)[asked], "boxes": predicted}
    per_box = {name: torch.full((count, 4), torch.nan) for name in last}
    for name, values in last.items():
        per_box[name][boxes] = values
    return Matches(
        tuple(judged),
        **{name: np.stack(values) for name, values in rows.items()},
        **{name: values.numpy() for name, values in per_box.items()},
    )
