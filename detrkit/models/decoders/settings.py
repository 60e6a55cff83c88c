"""The arguments that every decoder of the family takes, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detrkit.errors import ConfigError, did_you_mean
from detrkit.models.decoders.query_selection import SelectMethod
from detrkit.ops.deformable import SamplingMethod

_SELECT_METHODS = ("default", "one2many", "agnostic")
_SAMPLING_METHODS = ("default", "discrete")


@dataclass(frozen=True, kw_only=True)
class DecoderSettings:
    """What D-FINE, DEIMv2 and RT-DETRv2 decoders have in common.

    Attributes:
        owner: name of the decoder, for messages.
        num_classes: K.
        hidden_dim: C; divisible by `nhead`.
        num_queries: Q; fewer are used when the maps have fewer positions.
        feat_channels, feat_strides: widths and strides of the input maps, finest first.
        num_levels: levels of the cross-attention; missing ones are made by strided convolutions.
        num_points: sampling points per level, an int or one for each level.
        nhead, num_layers, dim_feedforward, dropout, activation: of the decoder layers.
        num_denoising: denoising queries of one kind, about; 0 switches denoising off.
        label_noise_ratio, box_noise_scale: see `denoising_queries`.
        learn_query_content: queries start from a learned embedding, not from the encoder's map.
        eval_spatial_size: (h, w) for which anchors are kept; other sizes get theirs on the fly.
        eval_idx: the layer that answers in evaluation; negative counts from the end.
        eps: anchors nearer to the border than this are not valid.
        aux_loss: whether training returns the outputs of all layers.
        cross_attn_method: "default" or "discrete", see `MSDeformableAttention`.
        query_select_method: "default", "one2many" or "agnostic", see `select_positions`.
        random_negatives, random_negative_iou: boxes per image, drawn at random, that denoising
            learns to reject, and how much they may overlap an object; see `denoising_queries`.

    Raises:
        ConfigError: arguments do not fit each other; says which.
    """

    owner: str
    num_classes: int
    hidden_dim: int
    num_queries: int
    feat_channels: Sequence[int]
    feat_strides: Sequence[int]
    num_levels: int
    num_points: int | Sequence[int]
    nhead: int
    num_layers: int
    dim_feedforward: int
    dropout: float
    activation: str
    num_denoising: int
    label_noise_ratio: float
    box_noise_scale: float
    learn_query_content: bool
    eval_spatial_size: Sequence[int] | None
    eval_idx: int
    eps: float
    aux_loss: bool
    cross_attn_method: SamplingMethod = "default"
    query_select_method: SelectMethod = "default"
    random_negatives: int = 0
    random_negative_iou: float = 0.2

    def __post_init__(self) -> None:
        channels, strides, points = self.feat_channels, self.feat_strides, self.num_points
        wrong: str | None = None
        if self.num_classes < 1:
            wrong = f"num_classes: must be at least 1, got {self.num_classes}"
        elif not channels or len(strides) != len(channels) or len(channels) > self.num_levels:
            wrong = (
                f"{len(channels)} feat_channels, {len(strides)} feat_strides and num_levels "
                f"{self.num_levels}: the first two must be as many, and no more than levels"
            )
        elif not -self.num_layers <= self.eval_idx < self.num_layers:
            wrong = f"eval_idx: {self.eval_idx} is none of {self.num_layers} layers"
        elif self.hidden_dim % self.nhead:
            wrong = f"hidden_dim: {self.hidden_dim} is not divisible by nhead {self.nhead}"
        elif not isinstance(points, int) and len(points) != self.num_levels:
            wrong = f"num_points: {list(points)} must have one entry for {self.num_levels} levels"
        elif (points if isinstance(points, int) else min(points)) < 1:
            wrong = f"num_points: every level needs at least one point, got {points}"
        elif self.random_negatives < 0:
            wrong = f"random_negatives: must not be negative, got {self.random_negatives}"
        elif self.random_negatives and self.num_denoising <= 0:
            wrong = "random_negatives: are part of denoising, which `num_denoising: 0` switches off"
        elif not 0 < self.random_negative_iou <= 1:
            wrong = f"random_negative_iou: must lie in 0–1, above 0, got {self.random_negative_iou}"
        else:
            wrong = _unknown("cross_attn_method", self.cross_attn_method, _SAMPLING_METHODS)
            wrong = wrong or _unknown(
                "query_select_method", self.query_select_method, _SELECT_METHODS
            )
        if wrong:
            raise ConfigError(f"{self.owner}.{wrong}")

    @property
    def eval_layer(self) -> int:
        """`eval_idx` counted from the first layer."""
        return self.eval_idx if self.eval_idx >= 0 else self.num_layers + self.eval_idx

    @property
    def level_strides(self) -> list[int]:
        """Strides of all levels: each added level halves the map before it."""
        added = self.num_levels - len(self.feat_strides)
        last = self.feat_strides[-1]
        return [*self.feat_strides, *(last * 2 ** (i + 1) for i in range(added))]

    @property
    def level_shapes(self) -> list[tuple[int, int]]:
        """(h, w) of all levels for images of `eval_spatial_size`; empty without one."""
        if not self.eval_spatial_size:
            return []
        h, w = self.eval_spatial_size
        return [(h // stride, w // stride) for stride in self.level_strides]


def _unknown(argument: str, value: str, known: Sequence[str]) -> str | None:
    return None if value in known else f"{argument}: no `{value}`{did_you_mean(value, known)}"
