"""Localisation distillation: distributions of box edges. Zheng et al., CVPR 2022, arXiv:2102.12252.

With T the temperature, t the teacher's and s the student's logits of an edge:

    T² · mean over edges of KL(softmax(t / T) ‖ softmax(s / T))                   eq. 3

In D-FINE's detectors an edge is a distance from a reference box of the query's own, in units of
that box, over values W(n) that need not be equal in both. So the teacher's distribution is first
brought onto the student's grid: bin n says where in the image the edge is; that place lies between
two bins of the student, which share its probability. Where reference boxes and grids agree this
changes nothing; what lies outside the student's grid goes to its outermost bin.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.distillation.losses.base import EdgeLoss, Edges
from detrkit.ops.distribution import translate_gt, weighting_function
from detrkit.registry import MODULES


@MODULES.register(paper="arXiv:2102.12252")
class LocalisationKL(EdgeLoss):
    """Divergence of the distributions of box edges.

    Args:
        tau: T; D-FINE distils its own layers with 5.
    """

    def __init__(self, tau: float = 5.0) -> None:
        super().__init__()
        if tau <= 0:
            raise ValueError(f"tau must be positive, got {tau}")
        self.tau = tau

    def forward(self, student: Edges, teacher: Edges) -> Tensor:
        """Edges of M pairs -> (M,)."""
        with torch.no_grad():
            target = on_grid(teacher, (teacher.logits / self.tau).softmax(-1), student)
            entropy = torch.xlogy(target, target).sum(-1)
        logp = (student.logits / self.tau).log_softmax(-1)
        return (entropy - (target * logp).sum(-1)).mean(-1) * self.tau**2


def on_grid(source: Edges, probability: Tensor, grid: Edges) -> Tensor:
    """Probabilities (M, 4, R + 1) on the bins of `source` -> (M, 4, R' + 1) on those of `grid`."""
    values = weighting_function(source.reg_max, source.up.float(), source.reg_scale.float())
    place = _places(source.references.float(), values, source.reg_scale.float())
    distance = _distances(place, grid.references.float(), grid.reg_scale.float())
    bins = translate_gt(distance, grid.reg_max, grid.reg_scale.float(), grid.up.float())
    found = probability.new_zeros(*probability.shape[:-1], grid.reg_max + 1)
    found.scatter_add_(-1, bins.left, probability * bins.weight_left)
    return found.scatter_add_(-1, bins.left + 1, probability * bins.weight_right)


def _places(references: Tensor, values: Tensor, reg_scale: Tensor) -> Tensor:
    """Where each bin puts each edge: boxes (M, 4), W (R + 1,) -> (M, 4, R + 1), 0–1."""
    centre, size = references[:, :2].tile(1, 2), references[:, 2:].tile(1, 2)
    outwards = size[..., None] * (0.5 + values / reg_scale.abs())
    return centre[..., None] + _signs(references) * outwards


def _distances(places: Tensor, references: Tensor, reg_scale: Tensor) -> Tensor:
    """The inverse of `_places`, as distances in units of the reference box / `reg_scale`."""
    centre, size = references[:, :2].tile(1, 2), references[:, 2:].tile(1, 2)
    outwards = _signs(references) * (places - centre[..., None])
    scale = reg_scale.abs()
    return outwards / (size[..., None] / scale + 1e-16) - 0.5 * scale


def _signs(like: Tensor) -> Tensor:
    """(4, 1): left and top edges lie below the centre."""
    return like.new_tensor([-1.0, -1.0, 1.0, 1.0])[:, None]
