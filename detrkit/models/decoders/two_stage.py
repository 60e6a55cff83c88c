"""What all decoders of the family share: projected maps, denoising, selected queries.

Two-stage means that the encoder's positions are scored first and the best become the decoder's
queries. RT-DETR, Zhao et al., CVPR 2024, arXiv:2304.08069, section 4.3.

Shape legend: B images, L positions of all levels, Q queries, D denoising queries, C channels,
K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.logits import bias_for_probability, inverse_sigmoid
from detrkit.layers.mlp import MLP
from detrkit.layers.size_cache import SizeCache
from detrkit.models.decoders.query_selection import (
    BASE_SIZE,
    make_anchors,
    select_positions,
    take,
)
from detrkit.models.decoders.settings import DecoderSettings
from detrkit.models.denoising import DenoisingQueries, denoising_queries
from detrkit.models.outputs import LayerOutputs, Outputs
from detrkit.structures import Target


@dataclass(frozen=True)
class Queries:
    """Where the decoder layers start: D denoising queries, then Q selected ones.

    Attributes:
        content: (B, D+Q, C).
        box_logits: (B, D+Q, 4) cxcywh as logits; without gradient.
        encoder: what the encoder says about the selected ones, (B, Q, …); with gradient.
        noisy: the denoising queries; None outside of training and when switched off.
    """

    content: Tensor
    box_logits: Tensor
    encoder: LayerOutputs
    noisy: DenoisingQueries | None

    @property
    def allowed(self) -> Tensor | None:
        """(D+Q, D+Q) bool for the self-attention; None: every query sees every query."""
        return None if self.noisy is None else self.noisy.allowed


class TwoStageDecoder(nn.Module, ABC):
    """Base of the decoders; a subclass adds the layers, the heads and `_decode`.

    A subclass registers, in the order of its authors' state dict, its layers, then
    `_add_query_embeddings()`, then `query_pos_head` and the encoder's heads: `enc_output` (B, L, C)
    -> (B, L, C), `enc_score_head` and `enc_bbox_head`. Module names are the authors', so that
    their checkpoints load without renaming.

    Args:
        settings: checked arguments.
        always_project: maps of width C are projected as well.

    Attributes:
        mirror_crossed, dummy_pairs: see `denoising_queries`.
    """

    anchors: Tensor
    valid_mask: Tensor
    query_pos_head: MLP
    enc_output: nn.Module
    enc_score_head: nn.Linear
    enc_bbox_head: MLP

    def __init__(self, settings: DecoderSettings, *, always_project: bool = False) -> None:
        super().__init__()
        self.settings = settings
        self.feat_channels = list(settings.feat_channels)
        self.num_classes = settings.num_classes
        self.num_queries = settings.num_queries
        self.num_denoising = settings.num_denoising
        self.mirror_crossed = True
        self.dummy_pairs = False
        self._anchors = SizeCache()
        self.input_proj = _input_projections(settings, always_project)
        if settings.eval_spatial_size:
            anchors, valid = make_anchors(settings.level_shapes, settings.eps)
            self.register_buffer("anchors", anchors)
            self.register_buffer("valid_mask", valid)

    @property
    def class_agnostic(self) -> bool:
        """Whether the encoder scores "object" instead of classes."""
        return self.settings.query_select_method == "agnostic"

    def _add_query_embeddings(self) -> None:
        """The embeddings of noisy classes, and of queries if their content is learned."""
        settings = self.settings
        if settings.num_denoising > 0:
            self.denoising_class_embed = nn.Embedding(
                settings.num_classes + 1, settings.hidden_dim, padding_idx=settings.num_classes
            )
        if settings.learn_query_content:
            self.tgt_embed = nn.Embedding(settings.num_queries, settings.hidden_dim)
            nn.init.xavier_uniform_(self.tgt_embed.weight)

    def _new_enc_score_head(self) -> nn.Linear:
        classes = 1 if self.class_agnostic else self.num_classes
        return nn.Linear(self.settings.hidden_dim, classes)

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
        return self._decode(self._queries(maps, targets), maps)

    @abstractmethod
    def _decode(self, queries: Queries, maps: Sequence[Tensor]) -> Outputs:
        """The decoder layers and their heads, on maps (B, C, h, w)."""

    def _project(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One map of width C per level."""
        maps = [proj(x) for proj, x in zip(self.input_proj, features, strict=False)]
        for proj in self.input_proj[len(features) :]:
            maps.append(proj(features[-1] if len(maps) == len(features) else maps[-1]))
        return maps

    def decode_at(self, maps: Sequence[Tensor], boxes_cxcywh: Tensor) -> Outputs:
        """Answers at given places instead of selected ones; for distillation.

        Contents are what the maps hold at the boxes' centres, on the level whose anchors are
        nearest in size, or the first learned ones. These queries see each other.

        Args:
            maps: what the modules of `input_proj` returned for the batch.
            boxes_cxcywh: (B, P, 4), 0–1, without gradient.

        Returns:
            Outputs, without those of the encoder; in evaluation `pred_logits` and `pred_boxes`
            only.
        """
        content = self._contents_at(maps, boxes_cxcywh)
        out = self._decode(Queries(content, inverse_sigmoid(boxes_cxcywh), {}, None), maps)
        out.pop("enc_aux_outputs", None)
        if "aux_outputs" in out:  # the first RT-DETR lists the encoder's there
            out["aux_outputs"] = [layer for layer in out["aux_outputs"] if layer]
        return out

    @torch.no_grad()
    def _contents_at(self, maps: Sequence[Tensor], boxes_cxcywh: Tensor) -> Tensor:
        """(B, P, C) contents of queries that start from boxes (B, P, 4)."""
        count = boxes_cxcywh.shape[1]
        if self.settings.learn_query_content:
            index = torch.arange(count, device=boxes_cxcywh.device) % self.num_queries
            return self.tgt_embed.weight[index].expand(len(boxes_cxcywh), -1, -1)
        grid = 2 * boxes_cxcywh[:, :, None, :2] - 1  # (B, P, 1, 2), x and y from -1 to 1
        sampled = torch.stack(
            [
                F.grid_sample(x, grid.to(x.dtype), align_corners=False, padding_mode="border")
                for x in maps
            ]
        )[..., 0]  # (levels, B, C, P)
        side = boxes_cxcywh[..., 2:].prod(-1).clamp(min=1e-8).sqrt()
        level = (side / BASE_SIZE).log2().round().clamp(0, len(maps) - 1).long()  # (B, P)
        index = level[None, :, None].expand(1, -1, sampled.shape[2], -1)
        content: Tensor = self.enc_output(sampled.gather(0, index)[0].mT)
        return content

    def _queries(self, maps: Sequence[Tensor], targets: Sequence[Target] | None) -> Queries:
        shapes = [(m.shape[2], m.shape[3]) for m in maps]
        count = min(self.num_queries, sum(h * w for h, w in shapes))
        noisy = self._denoising(targets, count)
        memory = torch.cat([m.permute(0, 2, 3, 1).flatten(1, 2) for m in maps], dim=1)  # (B, L, C)
        content, box_logits, logits = self._select(memory, shapes, count)
        encoder: LayerOutputs = {"pred_logits": logits, "pred_boxes": box_logits.sigmoid()}
        start = box_logits.detach()
        if self.settings.learn_query_content:
            content = self.tgt_embed.weight[:count].expand(memory.shape[0], -1, -1)
        else:
            content = content.detach()
        if noisy is not None:
            content = torch.cat([noisy.content, content], dim=1)
            start = torch.cat([noisy.box_logits, start], dim=1)
        return Queries(content, start, encoder, noisy)

    def _denoising(
        self, targets: Sequence[Target] | None, num_queries: int
    ) -> DenoisingQueries | None:
        if not self.training or self.num_denoising <= 0:
            return None
        if targets is None:
            raise ValueError("training with denoising needs targets: model(images, targets)")
        return denoising_queries(
            targets,
            self.denoising_class_embed,
            num_queries,
            self.num_denoising,
            self.settings.label_noise_ratio,
            self.settings.box_noise_scale,
            mirror_crossed=self.mirror_crossed,
            dummy_pairs=self.dummy_pairs,
            random_negatives=self.settings.random_negatives,
            random_negative_iou=self.settings.random_negative_iou,
        )

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
        anchors, valid = (x.expand(memory.shape[0], -1, -1) for x in self._anchors_for(shapes))
        with torch.no_grad() if self.training else torch.enable_grad():
            scored = self.enc_output(memory * valid.to(memory.dtype))
            logits = self.enc_score_head(scored)
            index = select_positions(logits, count, self.settings.query_select_method)
        if self.training:
            content = self.enc_output(take(memory, index) * take(valid, index).to(memory.dtype))
            logits = self.enc_score_head(content)
        else:
            content, logits = take(scored, index), take(logits, index)
        return content, self.enc_bbox_head(content) + take(anchors, index), logits

    def set_size(self, size: Sequence[int] | None) -> None:
        """Makes the kept anchors those of images of a size (h, w); None keeps none.

        They are constants of an exported graph then, or computed in it from the maps' sizes.
        """
        self.settings = replace(self.settings, eval_spatial_size=size)
        for name in ("anchors", "valid_mask"):
            self._buffers.pop(name, None)
        if size:
            anchors, valid = make_anchors(self.settings.level_shapes, self.settings.eps)
            like = self.enc_score_head.weight
            self.register_buffer("anchors", anchors.to(like))
            self.register_buffer("valid_mask", valid.to(like.device))

    def _anchors_for(self, shapes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Anchors (1, L, 4) as logits, and which are valid (1, L, 1)."""
        if list(shapes) == self.settings.level_shapes:
            return self.anchors, self.valid_mask
        like = self.enc_score_head.weight
        anchors, valid = self._anchors.get(
            (tuple(shapes), like.device, like.dtype),
            lambda: tuple(t.to(like.device) for t in make_anchors(shapes, self.settings.eps)),
        )
        return anchors.to(like.dtype), valid

    def _reset_heads(self, scores: Iterable[nn.Module], boxes: Iterable[nn.Module]) -> None:
        """Start values: classes are rare, boxes stay where they are.

        Args:
            scores: heads of class scores besides the encoder's, `nn.Linear` each.
            boxes: heads of boxes besides the encoder's, `MLP` each.
        """
        prior = bias_for_probability(0.01)
        for score in (self.enc_score_head, *scores):
            nn.init.constant_(cast(nn.Linear, score).bias, prior)
        for box in (self.enc_bbox_head, *boxes):
            cast(MLP, box).zero_last()

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


def linear_then_norm(width: int) -> nn.Sequential:
    """The layer before the encoder's heads, Xavier start. (B, L, C) -> (B, L, C)."""
    linear = nn.Linear(width, width)
    nn.init.xavier_uniform_(linear.weight)
    return nn.Sequential(OrderedDict(proj=linear, norm=nn.LayerNorm(width)))


def _input_projections(settings: DecoderSettings, always: bool) -> nn.ModuleList:
    """1×1 convolutions where widths differ; strided 3×3 ones for the levels without a map.

    Args:
        settings: widths and number of levels.
        always: project maps of the right width as well; then strided ones start like the others.
    """
    width, channels = settings.hidden_dim, settings.feat_channels
    layers: list[nn.Module] = []
    for level in range(settings.num_levels):
        extra = level >= len(channels)
        given = channels[min(level, len(channels) - 1)] if level <= len(channels) else width
        if given == width and not extra and not always:
            layers.append(nn.Identity())
            continue
        size, stride = (3, 2) if extra else (1, 1)
        conv = nn.Conv2d(given, width, size, stride, size // 2, bias=False)
        if always or not extra:
            nn.init.xavier_uniform_(conv.weight)
        layers.append(nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(width))))
    return nn.ModuleList(layers)
