"""Fine-grained distribution refinement (FDR): boxes as distributions, refined layer by layer.

D-FINE, Peng et al., ICLR 2025, arXiv:2410.13842, section 4.1. Each edge of a box has a
distribution over R + 1 offsets W(n). Layer l adds logits to those of layer l - 1, and the edge
moves by the expectation:

    d_l = d_0 + {H, H, W, W} · sum_n W(n) · Pr_l(n)                        eq. 2
    Pr_l(n) = softmax(delta_logits_l(n) + logits_{l-1}(n))                  eq. 3

Shape legend: B images, Q queries, C channels, K classes, R = reg_max bins.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.deformable import MSDeformableAttention
from detrkit.layers.logits import inverse_sigmoid
from detrkit.layers.mlp import MLP
from detrkit.ops.distribution import distance2bbox, weighting_function


class Integral(nn.Module):
    """The expectation of W(n) under each edge's distribution.

    Args:
        reg_max: R.
    """

    def __init__(self, reg_max: int = 32) -> None:
        super().__init__()
        self.reg_max = reg_max

    def forward(self, corners: Tensor, weights: Tensor) -> Tensor:
        """Logits (…, 4·(R+1)) and W (R+1,) -> distances (…, 4): left, top, right, bottom."""
        probability = corners.unflatten(-1, (4, self.reg_max + 1)).softmax(-1)
        return F.linear(probability, weights[None]).squeeze(-1)


class LQE(nn.Module):
    """Location quality estimator: a sharp distribution raises the class scores.

    From the k largest probabilities of each edge and their mean; Generalized Focal Loss V2,
    arXiv:2011.12885, section 3.2.

    Args:
        k: number of largest probabilities.
        hidden_dim, num_layers, act: of the perceptron.
        reg_max: R.
    """

    def __init__(
        self, k: int, hidden_dim: int, num_layers: int, reg_max: int, act: str = "relu"
    ) -> None:
        super().__init__()
        self.k = k
        self.reg_max = reg_max
        self.reg_conf = MLP(4 * (k + 1), hidden_dim, 1, num_layers, act)
        self.reg_conf.zero_last()

    def forward(self, logits: Tensor, corners: Tensor) -> Tensor:
        """Class logits (B, Q, K) and edge logits (B, Q, 4·(R+1)) -> class logits (B, Q, K)."""
        probability = corners.unflatten(-1, (4, self.reg_max + 1)).softmax(-1)
        top = probability.topk(self.k, dim=-1).values  # (B, Q, 4, k)
        statistics = torch.cat([top, top.mean(-1, keepdim=True)], dim=-1)
        return logits + self.reg_conf(statistics.flatten(2))


class Heads(NamedTuple):
    """The heads around the layers; they belong to the decoder that owns the refinement.

    Attributes:
        query_position: reference boxes (B, Q, 4) -> embeddings (B, Q, C).
        first_box: queries (B, Q, C) -> shift of the reference boxes, as logits (B, Q, 4).
        score: per layer, (B, Q, C) -> (B, Q, K).
        corners: per layer, (B, Q, C) -> (B, Q, 4·(R+1)).
        integral: edge logits -> distances.
    """

    query_position: nn.Module
    first_box: nn.Module
    score: nn.ModuleList
    corners: nn.ModuleList
    integral: nn.Module


@dataclass
class Refinement:
    """What the layers predict: one entry per layer in training, only the last in evaluation.

    Attributes:
        logits: (B, Q, K) each.
        boxes: (B, Q, 4) each, cxcywh, 0–1.
        corners: (B, Q, 4·(R+1)) each.
        first_boxes: (B, Q, 4) before refinement, cxcywh, 0–1.
        first_logits: (B, Q, K) of the first layer without quality; None in evaluation.
        reference: (B, Q, 4) `first_boxes` without gradient; what the distances start from.
    """

    first_boxes: Tensor
    reference: Tensor
    first_logits: Tensor | None = None
    logits: list[Tensor] = field(default_factory=list)
    boxes: list[Tensor] = field(default_factory=list)
    corners: list[Tensor] = field(default_factory=list)


class RefinementDecoder(nn.Module):
    """The decoder layers and their quality estimators.

    Args:
        hidden_dim: C.
        layer: copied for the layers up to `eval_idx`; the copies start with equal weights.
        wide_layer: copied for the layers after it, which help in training only.
        num_layers: number of layers.
        num_head: heads of the deformable attention.
        reg_max: R.
        reg_scale: (1,) curvature of W; shared with the owner.
        up: (1,) upper bound of W; shared with the owner.
        eval_idx: the layer that answers in evaluation; negative counts from the end.
        layer_scale: the wide layers' width relative to `hidden_dim`.
        act: activation of the quality estimators.
        position_once: queries keep the position embedding of their first reference box (DEIMv2)
            instead of a new one for each layer (D-FINE).
    """

    def __init__(
        self,
        hidden_dim: int,
        layer: nn.Module,
        wide_layer: nn.Module,
        num_layers: int,
        num_head: int,
        reg_max: int,
        reg_scale: nn.Parameter,
        up: nn.Parameter,
        eval_idx: int = -1,
        layer_scale: float = 1,
        act: str = "relu",
        position_once: bool = False,
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.num_head = num_head
        self.reg_max = reg_max
        self.eval_idx = eval_idx if eval_idx >= 0 else num_layers + eval_idx
        self.wide_dim = round(layer_scale * hidden_dim)
        self.position_once = position_once
        self.up = up
        self.reg_scale = reg_scale
        self.register_buffer("project", None, persistent=False)
        narrow = self.eval_idx + 1
        self.layers = nn.ModuleList(
            copy.deepcopy(layer if i < narrow else wide_layer) for i in range(num_layers)
        )
        self.lqe_layers = nn.ModuleList(LQE(4, 64, 2, reg_max, act=act) for _ in range(num_layers))

    def weights(self) -> Tensor:
        """W(n), (R+1,)."""
        if self.project is not None:
            return self.project
        return weighting_function(self.reg_max, self.up, self.reg_scale)

    def convert_to_deploy(self) -> None:
        """Drops the layers and estimators that evaluation does not use, and computes W once."""
        self.project = self.weights().detach().clone()
        self.layers = self.layers[: self.eval_idx + 1]
        self.lqe_layers = nn.ModuleList(
            estimator if i == self.eval_idx else nn.Identity()
            for i, estimator in enumerate(self.lqe_layers[: self.eval_idx + 1])
        )

    def forward(
        self,
        queries: Tensor,
        reference_logits: Tensor,
        features: Sequence[Tensor],
        heads: Heads,
        allowed: Tensor | None = None,
    ) -> Refinement:
        """Runs the layers.

        Args:
            queries: (B, Q, C) content.
            reference_logits: (B, Q, 4) cxcywh as logits.
            features: maps (B, C, h, w).
            heads: the heads of all layers.
            allowed: (Q, Q) bool for the self-attention; None: all.
        """
        weights = self.weights()
        values = self._values(features, 0)
        boxes = reference_logits.sigmoid()
        x = queries
        result: Refinement | None = None
        corners: Tensor | None = None
        position: Tensor | None = None
        previous: Tensor | int = 0  # the last layer's queries, without gradient
        layers = self.layers if self.training else self.layers[: self.eval_idx + 1]
        for i, layer in enumerate(layers):
            if position is None or not self.position_once:
                position = heads.query_position(boxes).clamp(-10, 10)
            if i > self.eval_idx and position.shape[-1] != self.wide_dim:
                position = _widen(position, self.wide_dim)
            if i == self.eval_idx + 1 and self.wide_dim != self.hidden_dim:
                x = _widen(x, self.wide_dim)
                previous = x.detach()
                values = self._values(features, i)
            x = layer(x, boxes, values, position, allowed)
            if result is None:
                first = (heads.first_box(x) + inverse_sigmoid(boxes)).sigmoid()
                result = Refinement(first, first.detach())
                if self.training:
                    result.first_logits = heads.score[0](x)
            correction = heads.corners[i](x + previous)
            corners = correction if corners is None else correction + corners
            distances = heads.integral(corners, weights)
            predicted = distance2bbox(result.reference, distances, self.reg_scale)
            if self.training or i == self.eval_idx:
                result.logits.append(self.lqe_layers[i](heads.score[i](x), corners))
                result.boxes.append(predicted)
                result.corners.append(corners)
            boxes = predicted.detach()
            previous = x.detach()
        assert result is not None
        return result

    def _values(self, features: Sequence[Tensor], layer: int) -> list[Tensor]:
        """Sampling maps of the layers from `layer` on; no layer has a projection of its own."""
        attention = self.layers[layer].cross_attn
        assert isinstance(attention, MSDeformableAttention)
        if layer > self.eval_idx:
            features = [
                _widen(f.flatten(2).mT, self.wide_dim).mT.unflatten(-1, f.shape[2:])
                for f in features
            ]
        return attention.values(features)


def _widen(x: Tensor, width: int) -> Tensor:
    """(B, N, C) -> (B, N, width), channels repeated."""
    return F.interpolate(x, size=width, mode="nearest")
