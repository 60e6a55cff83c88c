"""Deformable cross-attention of the decoders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.fused import FusedLinear
from detrkit.ops import onednn
from detrkit.ops.deformable import SamplingMethod, deformable_attention, split_heads


class MSDeformableAttention(nn.Module):
    """Each query looks at a few points of each feature level around its reference box.

    Deformable DETR, arXiv:2010.04159, with a number of points per level and offsets scaled by
    the reference box (RT-DETRv2, arXiv:2407.17140; D-FINE, arXiv:2410.13842).

    Shape legend: B batch, Q queries, M heads, C = M·c channels, P points of all levels.

    Args:
        embed_dim: C.
        num_heads: M; divides C.
        num_levels: number of feature levels.
        num_points: points per level; an int, or one int for each level.
        method: "default" interpolates; "discrete" takes the nearest pixel and freezes offsets.
        offset_scale: an offset of one reaches this share of the box side.
        project: whether values and result pass linear layers (RT-DETRv2) or not (D-FINE).
    """

    num_points_scale: Tensor

    def __init__(
        self,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int | Sequence[int] = 4,
        method: SamplingMethod = "default",
        offset_scale: float = 0.5,
        project: bool = False,
    ) -> None:
        super().__init__()
        points = [num_points] * num_levels if isinstance(num_points, int) else list(num_points)
        if len(points) != num_levels:
            raise ValueError(f"num_points {points} must have one entry for {num_levels} levels")
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not divisible by num_heads {num_heads}")
        if method not in ("default", "discrete"):
            raise ValueError(f"cross_attn_method must be default or discrete, got {method!r}")
        self.num_heads = num_heads
        self.points = points
        self.method = method
        self.offset_scale = offset_scale
        scale = [1 / n for n in points for _ in range(n)]
        self.register_buffer("num_points_scale", torch.tensor(scale))
        self.sampling_offsets = nn.Linear(embed_dim, num_heads * sum(points) * 2)
        self.attention_weights = nn.Linear(embed_dim, num_heads * sum(points))
        self.value_proj = nn.Linear(embed_dim, embed_dim) if project else nn.Identity()
        self.output_proj = nn.Linear(embed_dim, embed_dim) if project else nn.Identity()
        self._reset_parameters()
        if method == "discrete":
            self.sampling_offsets.requires_grad_(False)

    def _reset_parameters(self) -> None:
        """Equal weights; the points of a head leave the centre in the head's own direction."""
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)  # (M, 2)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        step = torch.cat([torch.arange(1, n + 1) for n in self.points])  # (P,)
        bias = direction[:, None] * step[:, None]  # (M, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.flatten())
        for layer in (self.value_proj, self.output_proj):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def values(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Feature maps (B, C, h, w) -> sampling maps (B·M, c, h, w), projected if so configured.

        Without projection the maps do not depend on the layer: call once, use in every layer.
        """
        if isinstance(self.value_proj, nn.Linear):
            features = [_projected(f, self.value_proj) for f in features]
        return [split_heads(feature, self.num_heads) for feature in features]

    def forward(self, query: Tensor, boxes_cxcywh: Tensor, values: Sequence[Tensor]) -> Tensor:
        """Gathers what the queries look at.

        Args:
            query: (B, Q, C), position included.
            boxes_cxcywh: (B, Q, 4) reference boxes, 0–1.
            values: one map per level, from `values`.

        Returns:
            (B, Q, C).
        """
        locations, weights = self.sampling(query, boxes_cxcywh)
        out = deformable_attention(values, locations, weights, self.points, self.method)
        return self.output_proj(out)

    def sampling(self, query: Tensor, boxes_cxcywh: Tensor) -> tuple[Tensor, Tensor]:
        """Where the queries look and how much each place counts; arguments as for `forward`.

        Returns:
            locations (B, M, Q, P, 2), x then y, 0–1 over the map, and weights (B, M, Q, P), which
            sum to one over P; the points of the levels one after another.
        """
        offsets = self.sampling_offsets(query).unflatten(-1, (self.num_heads, -1, 2))
        offsets = offsets.transpose(1, 2)  # (B, M, Q, P, 2)
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1))
        weights = weights.softmax(-1).transpose(1, 2)  # (B, M, Q, P)
        centre, side = boxes_cxcywh[:, None, :, None].chunk(2, dim=-1)  # (B, 1, Q, 1, 2)
        reach = self.num_points_scale.to(query.dtype)[:, None] * side * self.offset_scale
        # as wide as `reach`: sums of numbers in pairs are slow in ONNX Runtime
        locations = centre.expand(reach.shape) + offsets * reach
        return locations, weights


def _projected(maps: Tensor, linear: nn.Linear) -> Tensor:
    """(B, C, h, w) -> (B, C, h, w); channels-last maps become sampling maps without a copy."""
    if isinstance(linear, FusedLinear) and onednn.usable(maps, linear.weight):
        return onednn.project_maps(maps, linear.weight_for(maps), linear.bias)
    weight, bias = linear.weight.expand(maps.shape[0], -1, -1), linear.bias[:, None]
    return torch.baddbmm(bias, weight, maps.flatten(2)).view(maps.shape)
