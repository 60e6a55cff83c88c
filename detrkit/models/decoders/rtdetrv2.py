"""The RT-DETRv2 decoder: boxes refined layer by layer.

RT-DETRv2, Lv et al., arXiv:2407.17140. DEIM trains the same decoder with SiLU and a deeper position
head, arXiv:2412.04234.

Shape legend: B images, Q queries, C channels, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, cast

from torch import Tensor, nn

from detrkit.errors import ConfigError, did_you_mean
from detrkit.layers.logits import inverse_sigmoid
from detrkit.layers.mlp import MLP
from detrkit.models.decoders.layer import DecoderLayer
from detrkit.models.decoders.query_selection import SelectMethod
from detrkit.models.decoders.settings import DecoderSettings
from detrkit.models.decoders.training_outputs import training_outputs
from detrkit.models.decoders.two_stage import Queries, TwoStageDecoder, linear_then_norm
from detrkit.models.outputs import LayerOutputs, Outputs
from detrkit.ops.deformable import SamplingMethod
from detrkit.registry import MODULES

_POSITION_METHODS = ("default", "as_reg")


class BoxDecoder(nn.Module):
    """The decoder layers; each moves the boxes of the one before.

    A layer's box is trained through the box before it as well: "look forward twice", DINO,
    arXiv:2203.03605, section 3.4.

    Args:
        layer: copied; the copies start with equal weights.
        num_layers: number of layers.
        eval_idx: the layer that answers in evaluation, counted from the first.
    """

    def __init__(self, layer: DecoderLayer, num_layers: int, eval_idx: int) -> None:
        super().__init__()
        self.eval_idx = eval_idx
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))

    def forward(
        self,
        queries: Queries,
        maps: Sequence[Tensor],
        position_head: nn.Module,
        score_heads: Sequence[nn.Module],
        box_heads: Sequence[nn.Module],
    ) -> list[LayerOutputs]:
        """Runs the layers.

        Args:
            queries: content and boxes to start from.
            maps: (B, C, h, w), finest first.
            position_head: boxes (B, Q, 4) -> embeddings (B, Q, C).
            score_heads: per layer, (B, Q, C) -> (B, Q, K).
            box_heads: per layer, (B, Q, C) -> shift of the boxes, as logits (B, Q, 4).

        Returns:
            `pred_logits` and `pred_boxes` of all layers in training, of one in evaluation.
        """
        x, boxes = queries.content, queries.box_logits.sigmoid()
        before: Tensor | None = None  # the boxes of the layer before, with gradient
        outputs: list[LayerOutputs] = []
        layers = self.layers if self.training else self.layers[: self.eval_idx + 1]
        for i, layer in enumerate(layers):
            layer = cast(DecoderLayer, layer)
            values = layer.cross_attn.values(maps)
            x = layer(x, boxes, values, position_head(boxes), queries.allowed)
            shift = box_heads[i](x)
            moved = (shift + inverse_sigmoid(boxes)).sigmoid()
            if self.training and before is not None:
                boxes_out = (shift + inverse_sigmoid(before)).sigmoid()
            else:
                boxes_out = moved
            if self.training or i == self.eval_idx:
                outputs.append({"pred_logits": score_heads[i](x), "pred_boxes": boxes_out})
            before, boxes = moved, moved.detach()
        return outputs

    def convert_to_deploy(self) -> None:
        """Drops the layers that evaluation does not use."""
        self.layers = self.layers[: self.eval_idx + 1]


@MODULES.register(share=("num_classes", "eval_spatial_size"), paper="arXiv:2407.17140")
class RTDETRTransformerv2(TwoStageDecoder):
    """Fused feature maps -> classes and boxes.

    Args that all decoders share are explained by `DecoderSettings`. Of its own:

    Args:
        value_shape: accepted from DEIM's files, where it says how values lie in memory: no effect.
        mlp_act: activation of the box heads and the position head.
        query_pos_method: "default" or "as_reg", a position head as deep as the box heads.

    Raises:
        ConfigError: the arguments do not fit each other.
    """

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
        value_shape: Literal["default", "reshape"] = "reshape",
        mlp_act: str = "relu",
        query_pos_method: Literal["default", "as_reg"] = "default",
        random_negatives: int = 0,
        random_negative_iou: float = 0.2,
    ) -> None:
        if query_pos_method not in _POSITION_METHODS:
            raise ConfigError(
                f"{type(self).__name__}.query_pos_method: no `{query_pos_method}`"
                + did_you_mean(query_pos_method, _POSITION_METHODS)
            )
        settings = DecoderSettings(
            owner=type(self).__name__, num_classes=num_classes, hidden_dim=hidden_dim,
            num_queries=num_queries, feat_channels=feat_channels, feat_strides=feat_strides,
            num_levels=num_levels, num_points=num_points, nhead=nhead, num_layers=num_layers,
            dim_feedforward=dim_feedforward, dropout=dropout, activation=activation,
            num_denoising=num_denoising, label_noise_ratio=label_noise_ratio,
            box_noise_scale=box_noise_scale, learn_query_content=learn_query_content,
            eval_spatial_size=eval_spatial_size, eval_idx=eval_idx, eps=eps, aux_loss=aux_loss,
            cross_attn_method=cross_attn_method, query_select_method=query_select_method,
            random_negatives=random_negatives, random_negative_iou=random_negative_iou,
        )  # fmt: skip
        super().__init__(settings, always_project=True)
        self.mirror_crossed = False
        self.dummy_pairs = True
        layer = DecoderLayer(settings, project=True)
        self.decoder = BoxDecoder(layer, num_layers, settings.eval_layer)
        self._add_query_embeddings()
        if query_pos_method == "as_reg":
            self.query_pos_head = MLP(4, hidden_dim, hidden_dim, 3, mlp_act)
        else:
            self.query_pos_head = MLP(4, 2 * hidden_dim, hidden_dim, 2, mlp_act)
        self.enc_output = linear_then_norm(hidden_dim)
        self.enc_score_head = self._new_enc_score_head()
        self.enc_bbox_head = MLP(hidden_dim, hidden_dim, 4, 3, mlp_act)
        self.dec_score_head = nn.ModuleList(
            nn.Linear(hidden_dim, num_classes) for _ in range(num_layers)
        )
        self.dec_bbox_head = nn.ModuleList(
            MLP(hidden_dim, hidden_dim, 4, 3, mlp_act) for _ in range(num_layers)
        )
        self._reset_heads(self.dec_score_head, self.dec_bbox_head)
        for linear in self.query_pos_head.layers[:2]:  # the authors leave the third as it is
            nn.init.xavier_uniform_(cast(nn.Linear, linear).weight)

    def _decode(self, queries: Queries, maps: Sequence[Tensor]) -> Outputs:
        layers = self.decoder(
            queries, maps, self.query_pos_head, self.dec_score_head, self.dec_bbox_head
        )
        if not self.training:
            return cast(Outputs, layers[-1])
        return training_outputs(layers, queries, self.class_agnostic, self.settings.aux_loss)

    def convert_to_deploy(self) -> None:
        """Drops the heads behind the evaluated layer.

        The score heads before it stay, unused: DEIM counts the parameters of its deployed
        RT-DETRv2 with them.
        """
        last = self.decoder.eval_idx + 1
        self.dec_score_head = self.dec_score_head[:last]
        self.dec_bbox_head = self.dec_bbox_head[:last]
