"""Decoders that refine distributions of box edges: what D-FINE and DEIMv2 share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.layers.mlp import MLP
from detrkit.models.decoders.fdr import Heads, Integral, Refinement, RefinementDecoder
from detrkit.models.decoders.settings import DecoderSettings
from detrkit.models.decoders.training_outputs import training_outputs
from detrkit.models.decoders.two_stage import Queries, TwoStageDecoder
from detrkit.models.outputs import LayerOutputs, Outputs


class RefiningDecoder(TwoStageDecoder):
    """A two-stage decoder around `RefinementDecoder`.

    A subclass adds the heads: `pre_bbox_head`, `dec_score_head`, `dec_bbox_head` and those that
    `TwoStageDecoder` asks for.

    Args:
        settings: checked arguments.
        layer, wide_layer: see `RefinementDecoder`.
        reg_max: R.
        reg_scale: curvature of the weighting function.
        layer_scale: width of the layers after the evaluated one, relative to `hidden_dim`.
        position_once: see `RefinementDecoder`.

    Raises:
        ConfigError: `reg_max` is odd or below 4.
    """

    pre_bbox_head: MLP
    dec_score_head: nn.ModuleList
    dec_bbox_head: nn.ModuleList

    def __init__(
        self,
        settings: DecoderSettings,
        layer: nn.Module,
        wide_layer: nn.Module,
        *,
        reg_max: int,
        reg_scale: float,
        layer_scale: float,
        position_once: bool = False,
    ) -> None:
        super().__init__(settings)
        if reg_max < 4 or reg_max % 2:
            raise ConfigError(
                f"{settings.owner}.reg_max: must be even and at least 4, got {reg_max}"
            )
        self.reg_max = reg_max
        self.up = nn.Parameter(torch.tensor([0.5]), requires_grad=False)
        # an integer in the configuration makes an integer parameter, as in authors' checkpoints
        self.reg_scale = nn.Parameter(torch.tensor([reg_scale]), requires_grad=False)
        self.decoder = RefinementDecoder(
            settings.hidden_dim, layer, wide_layer, settings.num_layers, settings.nhead, reg_max,
            self.reg_scale, self.up, settings.eval_layer, layer_scale, settings.activation,
            position_once,
        )  # fmt: skip
        self._add_query_embeddings()
        self.integral = Integral(reg_max)

    @property
    def _head_widths(self) -> list[int]:
        """Width of the queries behind each layer."""
        decoder, layers = self.decoder, self.settings.num_layers
        return [
            decoder.hidden_dim if i <= decoder.eval_idx else decoder.wide_dim for i in range(layers)
        ]

    def _new_corner_head(self, width: int, act: str) -> MLP:
        return MLP(width, width, 4 * (self.reg_max + 1), 3, act)

    def _reset_parameters(self) -> None:
        self._reset_heads(self.dec_score_head, (self.pre_bbox_head, *self.dec_bbox_head))
        for layer in self.query_pos_head.layers:
            nn.init.xavier_uniform_(cast(nn.Linear, layer).weight)

    def _decode(self, queries: Queries, maps: Sequence[Tensor]) -> Outputs:
        heads = Heads(
            self.query_pos_head, self.pre_bbox_head, self.dec_score_head, self.dec_bbox_head,
            self.integral,
        )  # fmt: skip
        refined = self.decoder(queries.content, queries.box_logits, maps, heads, queries.allowed)
        if not self.training:
            return {"pred_logits": refined.logits[-1], "pred_boxes": refined.boxes[-1]}
        outputs = training_outputs(
            _layers(refined), queries, self.class_agnostic, self.settings.aux_loss, _first(refined)
        )
        return cast(Outputs, {**outputs, "up": self.up, "reg_scale": self.reg_scale})

    def convert_to_deploy(self) -> None:
        """Drops the heads of the layers that evaluation does not use."""
        last = self.decoder.eval_idx
        self.dec_score_head = nn.ModuleList(
            head if i == last else nn.Identity()
            for i, head in enumerate(self.dec_score_head[: last + 1])
        )
        self.dec_bbox_head = self.dec_bbox_head[: last + 1]


def _layers(refined: Refinement) -> list[LayerOutputs]:
    return [
        {
            "pred_logits": logits,
            "pred_boxes": boxes,
            "pred_corners": corners,
            "ref_points": refined.reference,
        }
        for logits, boxes, corners in zip(
            refined.logits, refined.boxes, refined.corners, strict=True
        )
    ]


def _first(refined: Refinement) -> LayerOutputs:
    assert refined.first_logits is not None
    return {"pred_logits": refined.first_logits, "pred_boxes": refined.first_boxes}
