"""The losses of a step between a student and what its teacher says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from detrkit.distillation.adapters import Adapter
from detrkit.distillation.layout import MapPair
from detrkit.distillation.losses.base import ClassLoss, EdgeLoss, Edges, FeatureLoss
from detrkit.distillation.losses.classes import SigmoidKL
from detrkit.distillation.losses.localisation import LocalisationKL
from detrkit.distillation.pairing import Pairing, QueryPairs, image_mean
from detrkit.distillation.teacher import Answers, edges_of
from detrkit.losses.boxes import giou_loss


class FeatureTerm(nn.Module):
    """One feature loss over pairs of maps; the mean over the pairs.

    Args:
        name: of the loss in the logs.
        weight: factor.
        pairs: maps of the student and of the teacher.
        new_loss: makes a loss; every pair has its own layers.
    """

    def __init__(
        self,
        name: str,
        weight: float,
        pairs: Sequence[MapPair],
        new_loss: Callable[[], FeatureLoss],
    ) -> None:
        super().__init__()
        self.name = name
        self.weight = weight
        self.pairs = tuple(pairs)
        self.adapters = nn.ModuleList(Adapter(*pair.channels) for pair in pairs)
        self.losses = nn.ModuleList(new_loss().prepare(pair.channels[1]) for pair in pairs)

    def forward(
        self,
        student: Callable[[str], Tensor],
        teacher: Mapping[str, Tensor],
        boxes: Sequence[Tensor],
    ) -> Tensor:
        """The weighted loss.

        Args:
            student: stage -> map.
            teacher: by stage.
            boxes: per image boxes_cxcywh (N, 4).
        """
        values = []
        for pair, adapter, loss in zip(self.pairs, self.adapters, self.losses, strict=True):
            mine, theirs = adapter(student(pair.student).float(), teacher[pair.teacher])
            values.append(loss(mine, theirs, boxes))
        return torch.stack(values).mean() * self.weight


@dataclass
class LogitLosses:
    """Class, box and distribution losses between pairs of queries.

    Attributes:
        columns: (K',) the student's indices of the classes that both have.
        classes: class logits of pairs (M, K') twice -> (M,).
        edges: edges of pairs -> (M,).
        weight_class, weight_bbox, weight_giou, weight_ld: factors; 0 leaves a loss out.
        pairing: which query answers for which.
        layers: the last decoder layer, or all of them with the pairs of the last.
    """

    columns: Tensor
    classes: ClassLoss = field(default_factory=SigmoidKL)
    edges: EdgeLoss = field(default_factory=LocalisationKL)
    weight_class: float = 2.0
    weight_bbox: float = 5.0
    weight_giou: float = 2.0
    weight_ld: float = 0.5
    pairing: Pairing = field(default_factory=Pairing)
    layers: Literal["last", "all"] = "last"

    def paired(self, outputs: Mapping[str, Any], answers: Answers) -> dict[str, Tensor]:
        """The losses of paired queries, by name."""
        assert answers.logits is not None
        assert answers.boxes is not None
        pairs = self.pairing(
            outputs["pred_logits"][..., self.columns],
            outputs["pred_boxes"],
            answers.logits,
            answers.boxes,
        )
        return self._losses(outputs, answers, pairs, "")

    def at_probes(self, outputs: Mapping[str, Any], answers: Answers) -> dict[str, Tensor]:
        """The losses of queries that both answered at the same place."""
        assert answers.logits is not None
        images, count = answers.logits.shape[:2]
        scores = answers.logits.flatten(0, 1).amax(-1).sigmoid()
        same = torch.arange(images * count, device=scores.device)
        pairs = QueryPairs(same, same, image_mean(scores, same // count, images))
        return self._losses(outputs, answers, pairs, "probe_")

    def _losses(
        self, outputs: Mapping[str, Any], answers: Answers, pairs: QueryPairs, prefix: str
    ) -> dict[str, Tensor]:
        layers = [outputs]
        if self.layers == "all":
            layers += outputs.get("aux_outputs", ())
        sums: dict[str, Tensor] = {}
        for layer in layers:
            for name, value in self._of_layer(outputs, layer, answers, pairs).items():
                sums[name] = sums[name] + value if name in sums else value
        return {f"{prefix}{name}": value / len(layers) for name, value in sums.items()}

    def _of_layer(
        self,
        outputs: Mapping[str, Any],
        layer: Mapping[str, Any],
        answers: Answers,
        pairs: QueryPairs,
    ) -> dict[str, Tensor]:
        assert answers.logits is not None
        assert answers.boxes is not None
        found: dict[str, Tensor] = {}
        if self.weight_class:
            mine = layer["pred_logits"][..., self.columns].flatten(0, 1)[pairs.student]
            theirs = answers.logits.flatten(0, 1)[pairs.teacher]
            found["class"] = (self.classes(mine, theirs) * pairs.weight).sum() * self.weight_class
        boxes = layer["pred_boxes"].flatten(0, 1)[pairs.student]
        their_boxes = answers.boxes.flatten(0, 1)[pairs.teacher]
        if self.weight_bbox:
            distance = (boxes - their_boxes).abs().sum(-1)
            found["bbox"] = (distance * pairs.weight).sum() * self.weight_bbox
        if self.weight_giou:
            loss = giou_loss(boxes[None], their_boxes[None], pairs.weight[None])[0]
            found["giou"] = loss * self.weight_giou
        if self.weight_ld and answers.edges is not None and "pred_corners" in layer:
            student = edges_of(
                layer["pred_corners"], layer["ref_points"], outputs["up"], outputs["reg_scale"]
            )
            theirs_at: Edges = answers.edges.at(pairs.teacher)
            loss = self.edges(student.at(pairs.student), theirs_at)
            found["ld"] = (loss * pairs.weight).sum() * self.weight_ld
        return found
