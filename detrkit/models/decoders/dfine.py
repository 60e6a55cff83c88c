"""The D-FINE decoder: query selection, denoising, and distribution refinement.

D-FINE, Peng et al., ICLR 2025, arXiv:2410.13842. Module names are the authors', so that their
checkpoints load without renaming.

Shape legend: B images, L positions of all levels, Q queries, D denoising queries, C channels,
K classes, R = reg_max bins.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigError, did_you_mean
from detrkit.models.decoders.fdr import Heads, Integral, RefinementDecoder
from detrkit.models.decoders.layer import DecoderLayer
from detrkit.models.decoders.query_selection import (
    SelectMethod,
    make_anchors,
    select_positions,
    take,
)
from detrkit.models.decoders.training_outputs import training_outputs
from detrkit.models.denoising import DenoisingQueries, denoising_queries
from detrkit.models.layers.logits import bias_for_probability
from detrkit.models.layers.mlp import MLP
from detrkit.models.layers.size_cache import SizeCache
from detrkit.models.outputs import LayerOutputs, Outputs
from detrkit.ops.deformable import SamplingMethod
from detrkit.registry import MODULES
from detrkit.structures import Target

_SELECT_METHODS = ("default", "one2many", "agnostic")
_SAMPLING_METHODS = ("default", "discrete")


@MODULES.register(share=("num_classes", "eval_spatial_size"), paper="arXiv:2410.13842")
class DFINETransformer(nn.Module):
    """Fused feature maps -> classes and boxes.

    Args:
        num_classes: K.
        hidden_dim: C; divisible by `nhead`.
        num_queries: Q; fewer are used when the maps have fewer positions.
        feat_channels, feat_strides: widths and strides of the input maps, finest first.
        num_levels: levels of the cross-attention; missing ones are made by strided convolutions.
        num_points: sampling points per level, an int or a list.
        nhead, num_layers, dim_feedforward, dropout, activation: of the decoder layers.
        num_denoising: denoising queries of one kind, about; 0 switches denoising off.
        label_noise_ratio: see `denoising_queries`.
        box_noise_scale: accepted from authors' files, where it has no effect: noise is 1.
        learn_query_content: queries start from a learned embedding, not from the encoder's map.
        eval_spatial_size: (h, w) for which anchors are kept; other sizes get theirs on the fly.
        eval_idx: the layer that answers in evaluation; negative counts from the end.
        eps: anchors nearer to the border than this are not valid.
        aux_loss: whether training returns the outputs of all layers.
        cross_attn_method: "default" or "discrete", see `MSDeformableAttention`.
        query_select_method: "default", "one2many" or "agnostic", see `select_positions`.
        reg_max: R.
        reg_scale: curvature of the weighting function.
        layer_scale: width of the layers after `eval_idx`, relative to `hidden_dim`.
        mlp_act: activation of the box heads and the quality estimator.

    Raises:
        ConfigError: the arguments do not fit each other.
    """

    anchors: Tensor
    valid_mask: Tensor

    def __init__(
        self,
        num_classes: int = 80,
        hidden_dim: int = 256,
        num_queries: int = 300,
        feat_channels: Sequence[int] = (512, 1024, 2048),
        feat_strides: Sequence[int] = (8, 16, 32),
        num_levels: int = 3,
        num_points: int | Sequence[int] = 4,
        nhead: int = 8,
        num_layers: int = 6,
        dim_feedforward: int = 1024,
        dropout: float = 0.0,
        activation: str = "relu",
        num_denoising: int = 100,
        label_noise_ratio: float = 0.5,
        box_noise_scale: float = 1.0,
        learn_query_content: bool = False,
        eval_spatial_size: Sequence[int] | None = None,
        eval_idx: int = -1,
        eps: float = 1e-2,
        aux_loss: bool = True,
        cross_attn_method: SamplingMethod = "default",
        query_select_method: SelectMethod = "default",
        reg_max: int = 32,
        reg_scale: float = 4.0,
        layer_scale: float = 1,
        mlp_act: str = "relu",
    ) -> None:
        super().__init__()
        _check(
            num_classes, feat_channels, feat_strides, num_levels, num_layers, eval_idx, hidden_dim,
            nhead, num_points, cross_attn_method, query_select_method,
        )  # fmt: skip
        self.num_classes = num_classes
        self.hidden_dim = hidden_dim
        self.num_queries = num_queries
        self.num_levels = num_levels
        self.num_denoising = num_denoising
        self.label_noise_ratio = label_noise_ratio
        self.box_noise_scale = box_noise_scale
        self.learn_query_content = learn_query_content
        self.eval_spatial_size = eval_spatial_size
        self.eval_idx = eval_idx if eval_idx >= 0 else num_layers + eval_idx
        self.eps = eps
        self.aux_loss = aux_loss
        self.query_select_method = query_select_method
        self.reg_max = reg_max
        self._anchors = SizeCache()
        missing = num_levels - len(feat_strides)
        self.feat_strides = [
            *feat_strides,
            *(feat_strides[-1] * 2 ** (i + 1) for i in range(missing)),
        ]
        wide_dim = round(layer_scale * hidden_dim)

        self.input_proj = self._input_projections(feat_channels)
        self.up = nn.Parameter(torch.tensor([0.5]), requires_grad=False)
        # an integer in the configuration makes an integer parameter, as in authors' checkpoints
        self.reg_scale = nn.Parameter(torch.tensor([reg_scale]), requires_grad=False)
        narrow, wide = (
            DecoderLayer(
                round(scale * hidden_dim), nhead, round(scale * dim_feedforward), dropout,
                activation, num_levels, num_points, cross_attn_method,
            )
            for scale in (1, layer_scale)
        )  # fmt: skip
        self.decoder = RefinementDecoder(
            hidden_dim, narrow, wide, num_layers, nhead, reg_max, self.reg_scale, self.up,
            self.eval_idx, layer_scale, mlp_act,
        )  # fmt: skip
        if num_denoising > 0:
            self.denoising_class_embed = nn.Embedding(
                num_classes + 1, hidden_dim, padding_idx=num_classes
            )
        if learn_query_content:
            self.tgt_embed = nn.Embedding(num_queries, hidden_dim)
        self.query_pos_head = MLP(4, 2 * hidden_dim, hidden_dim, 2)
        self.enc_output = nn.Sequential(
            OrderedDict(proj=nn.Linear(hidden_dim, hidden_dim), norm=nn.LayerNorm(hidden_dim))
        )
        self.enc_score_head = nn.Linear(hidden_dim, 1 if self.class_agnostic else num_classes)
        self.enc_bbox_head = MLP(hidden_dim, hidden_dim, 4, 3, mlp_act)
        widths = [hidden_dim if i <= self.eval_idx else wide_dim for i in range(num_layers)]
        self.dec_score_head = nn.ModuleList(nn.Linear(width, num_classes) for width in widths)
        self.pre_bbox_head = MLP(hidden_dim, hidden_dim, 4, 3, mlp_act)
        self.dec_bbox_head = nn.ModuleList(
            MLP(width, width, 4 * (reg_max + 1), 3, mlp_act) for width in widths
        )
        self.integral = Integral(reg_max)
        if eval_spatial_size:
            h, w = eval_spatial_size
            anchors, valid = make_anchors([(h // s, w // s) for s in self.feat_strides], eps)
            self.register_buffer("anchors", anchors)
            self.register_buffer("valid_mask", valid)
        self._reset_parameters()

    @property
    def class_agnostic(self) -> bool:
        """Whether the encoder scores "object" instead of classes."""
        return self.query_select_method == "agnostic"

    def _input_projections(self, feat_channels: Sequence[int]) -> nn.ModuleList:
        """1×1 convolutions where widths differ; strided 3×3 ones for the levels without a map."""
        layers: list[nn.Module] = []
        for level in range(self.num_levels):
            extra = level >= len(feat_channels)
            if extra:
                width = feat_channels[-1] if level == len(feat_channels) else self.hidden_dim
            else:
                width = feat_channels[level]
            if width == self.hidden_dim and not extra:
                layers.append(nn.Identity())
                continue
            size, stride = (3, 2) if extra else (1, 1)
            conv = nn.Conv2d(width, self.hidden_dim, size, stride, size // 2, bias=False)
            if not extra:
                nn.init.xavier_uniform_(conv.weight)
            layers.append(
                nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(self.hidden_dim)))
            )
        return nn.ModuleList(layers)

    def _reset_parameters(self) -> None:
        prior = bias_for_probability(0.01)
        for score in (self.enc_score_head, *self.dec_score_head):
            nn.init.constant_(cast(nn.Linear, score).bias, prior)
        for box in (self.enc_bbox_head, self.pre_bbox_head, *self.dec_bbox_head):
            cast(MLP, box).zero_last()
        nn.init.xavier_uniform_(cast(nn.Linear, self.enc_output.proj).weight)
        for layer in self.query_pos_head.layers:
            nn.init.xavier_uniform_(cast(nn.Linear, layer).weight)
        if self.learn_query_content:
            nn.init.xavier_uniform_(self.tgt_embed.weight)

    def forward(
        self, features: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> Outputs:
        """Decodes a batch.

        Args:
            features: maps (B, feat_channels[i], h_i, w_i), finest first.
            targets: B targets; needed in training when denoising is on.

        Returns:
            Outputs; in evaluation `pred_logits` and `pred_boxes` only.

        Raises:
            ValueError: training with denoising, but without targets.
        """
        maps = self._project(features)
        shapes = [(m.shape[2], m.shape[3]) for m in maps]
        count = min(self.num_queries, sum(h * w for h, w in shapes))
        noisy = self._denoising(targets, count)
        memory = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)  # (B, L, C)
        content, box_logits, encoder_logits = self._select(memory, shapes, count)
        start = box_logits.detach()
        if self.learn_query_content:
            content = self.tgt_embed.weight[:count].expand(len(memory), -1, -1)
        else:
            content = content.detach()
        if noisy is not None:
            content = torch.cat([noisy.content, content], dim=1)
            start = torch.cat([noisy.box_logits, start], dim=1)
        heads = Heads(
            self.query_pos_head, self.pre_bbox_head, self.dec_score_head, self.dec_bbox_head,
            self.integral,
        )  # fmt: skip
        allowed = None if noisy is None else noisy.allowed
        refined = self.decoder(content, start, maps, heads, allowed)
        if not self.training:
            return {"pred_logits": refined.logits[-1], "pred_boxes": refined.boxes[-1]}
        encoder: LayerOutputs = {
            "pred_logits": encoder_logits,
            "pred_boxes": box_logits.sigmoid(),
        }
        outputs = training_outputs(refined, encoder, noisy, self.class_agnostic, self.aux_loss)
        return cast(Outputs, {**outputs, "up": self.up, "reg_scale": self.reg_scale})

    def _project(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One map of width C per level."""
        maps = [proj(x) for proj, x in zip(self.input_proj, features, strict=False)]
        for proj in self.input_proj[len(features) :]:
            maps.append(proj(features[-1] if len(maps) == len(features) else maps[-1]))
        return maps

    def _denoising(
        self, targets: Sequence[Target] | None, num_queries: int
    ) -> DenoisingQueries | None:
        if not self.training or self.num_denoising <= 0:
            return None
        if targets is None:
            raise ValueError("training with denoising needs targets: model(images, targets)")
        return denoising_queries(
            targets, self.denoising_class_embed, num_queries, self.num_denoising,
            self.label_noise_ratio, box_noise_scale=1.0,
        )  # fmt: skip

    def _select(
        self, memory: Tensor, shapes: Sequence[tuple[int, int]], count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The positions that become queries.

        `enc_output` and the score head see one position at a time. So all positions are scored
        without gradient, and only the selected ones once more with it: the same values and
        gradients for a small part of the backward pass.

        Returns:
            content (B, Q, C), boxes as logits (B, Q, 4), class logits (B, Q, K).
        """
        anchors, valid = self._anchors_for(shapes)
        memory = memory * valid.to(memory.dtype)
        with torch.no_grad() if self.training else torch.enable_grad():
            scored = self.enc_output(memory)
            logits = self.enc_score_head(scored)
            index = select_positions(logits, count, self.query_select_method)
        if self.training:
            content = self.enc_output(take(memory, index))
            logits = self.enc_score_head(content)
        else:
            content, logits = take(scored, index), take(logits, index)
        return content, self.enc_bbox_head(content) + take(anchors, index), logits

    def _anchors_for(self, shapes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Anchors (1, L, 4) as logits, and which are valid (1, L, 1)."""
        like = self.enc_score_head.weight
        if self.eval_spatial_size:
            h, w = self.eval_spatial_size
            if list(shapes) == [(h // s, w // s) for s in self.feat_strides]:
                return self.anchors, self.valid_mask
        anchors, valid = self._anchors.get(
            (tuple(shapes), like.device, like.dtype),
            lambda: tuple(t.to(like.device) for t in make_anchors(shapes, self.eps)),
        )
        return anchors.to(like.dtype), valid

    def convert_to_deploy(self) -> None:
        """Drops the heads of the layers that evaluation does not use."""
        last = self.eval_idx
        self.dec_score_head = nn.ModuleList(
            head if i == last else nn.Identity()
            for i, head in enumerate(self.dec_score_head[: last + 1])
        )
        self.dec_bbox_head = self.dec_bbox_head[: last + 1]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # anchors follow from this model's input size, whatever size the checkpoint had
        for name in ("anchors", "valid_mask"):
            if f"{prefix}{name}" in state_dict:
                if name in self._buffers:
                    state_dict[f"{prefix}{name}"] = self._buffers[name]
                else:
                    del state_dict[f"{prefix}{name}"]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _check(
    num_classes: int,
    feat_channels: Sequence[int],
    feat_strides: Sequence[int],
    num_levels: int,
    num_layers: int,
    eval_idx: int,
    hidden_dim: int,
    nhead: int,
    num_points: int | Sequence[int],
    cross_attn_method: str,
    query_select_method: str,
) -> None:
    """Raises a ConfigError that says which argument does not fit."""
    wrong: str | None = None
    if num_classes < 1:
        wrong = f"num_classes: must be at least 1, got {num_classes}"
    elif len(feat_strides) != len(feat_channels) or len(feat_channels) > num_levels:
        wrong = (
            f"{len(feat_channels)} feat_channels, {len(feat_strides)} feat_strides and "
            f"num_levels {num_levels}: the first two must be as many, and no more than levels"
        )
    elif not -num_layers <= eval_idx < num_layers:
        wrong = f"eval_idx: {eval_idx} is none of {num_layers} layers"
    elif hidden_dim % nhead:
        wrong = f"hidden_dim: {hidden_dim} is not divisible by nhead {nhead}"
    elif not isinstance(num_points, int) and len(num_points) != num_levels:
        wrong = f"num_points: {list(num_points)} must have one entry for {num_levels} levels"
    elif cross_attn_method not in _SAMPLING_METHODS:
        wrong = f"cross_attn_method: no `{cross_attn_method}`" + did_you_mean(
            cross_attn_method, _SAMPLING_METHODS
        )
    elif query_select_method not in _SELECT_METHODS:
        wrong = f"query_select_method: no `{query_select_method}`" + did_you_mean(
            query_select_method, _SELECT_METHODS
        )
    if wrong:
        raise ConfigError(f"DFINETransformer.{wrong}")
