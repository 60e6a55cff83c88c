"""The DEIMv2 decoder: D-FINE's refinement with leaner layers and heads.

DEIMv2, Huang et al., arXiv:2509.20787. RMSNorm and SwiGLU in the layers; one position embedding
for all layers; the encoder's maps are scored directly; heads may be shared by all layers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from detrkit.layers.mlp import MLP
from detrkit.models.decoders.layer import DecoderLayer
from detrkit.models.decoders.query_selection import SelectMethod
from detrkit.models.decoders.refining import RefiningDecoder
from detrkit.models.decoders.settings import DecoderSettings
from detrkit.ops.deformable import SamplingMethod
from detrkit.registry import MODULES


@MODULES.register(share=("num_classes", "eval_spatial_size"), paper="arXiv:2509.20787")
class DEIMTransformer(RefiningDecoder):
    """Fused feature maps -> classes and boxes.

    Args that all decoders share are explained by `DecoderSettings`. Of its own, or special:

    Args:
        dim_feedforward: twice the hidden width of the SwiGLU.
        activation: of the quality estimators.
        box_noise_scale: accepted from authors' files, where it has no effect: noise is 1.
        reg_max: R, number of bins less one.
        reg_scale: curvature of the weighting function.
        layer_scale: width of the layers after `eval_idx`, relative to `hidden_dim`.
        mlp_act: activation of the box heads and the position head.
        use_gateway: see `DecoderLayer`, `gated`.
        share_bbox_head, share_score_head: the layers up to `eval_idx` have one head together;
            the state dict lists it under each layer's name.

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
        reg_max: int = 32,
        reg_scale: float = 4.0,
        layer_scale: float = 1,
        mlp_act: str = "relu",
        use_gateway: bool = True,
        share_bbox_head: bool = False,
        share_score_head: bool = False,
        random_negatives: int = 0,
        random_negative_iou: float = 0.2,
    ) -> None:
        settings = DecoderSettings(
            owner=type(self).__name__, num_classes=num_classes, hidden_dim=hidden_dim,
            num_queries=num_queries, feat_channels=feat_channels, feat_strides=feat_strides,
            num_levels=num_levels, num_points=num_points, nhead=nhead, num_layers=num_layers,
            dim_feedforward=dim_feedforward, dropout=dropout, activation=activation,
            num_denoising=num_denoising, label_noise_ratio=label_noise_ratio, box_noise_scale=1.0,
            learn_query_content=learn_query_content, eval_spatial_size=eval_spatial_size,
            eval_idx=eval_idx, eps=eps, aux_loss=aux_loss, cross_attn_method=cross_attn_method,
            query_select_method=query_select_method, random_negatives=random_negatives,
            random_negative_iou=random_negative_iou,
        )  # fmt: skip
        narrow, wide = (
            DecoderLayer(settings, scale, gated=use_gateway, rms_norm=True, swiglu=True)
            for scale in (1, layer_scale)
        )
        super().__init__(
            settings,
            narrow,
            wide,
            reg_max=reg_max,
            reg_scale=reg_scale,
            layer_scale=layer_scale,
            position_once=True,
        )
        self.enc_output = nn.Identity()
        self.enc_score_head = self._new_enc_score_head()
        self.enc_bbox_head = MLP(hidden_dim, hidden_dim, 4, 3, mlp_act)
        self.query_pos_head = MLP(4, hidden_dim, hidden_dim, 3, mlp_act)
        self.pre_bbox_head = MLP(hidden_dim, hidden_dim, 4, 3, mlp_act)
        widths = self._head_widths
        narrow_layers = settings.eval_layer + 1
        self.dec_score_head = _heads(
            [nn.Linear(width, num_classes) for width in widths], narrow_layers, share_score_head
        )
        self.dec_bbox_head = _heads(
            [self._new_corner_head(w, mlp_act) for w in widths], narrow_layers, share_bbox_head
        )
        self._reset_parameters()


def _heads(heads: list[nn.Module], narrow: int, shared: bool) -> nn.ModuleList:
    """The first `narrow` heads become one, or copies of one: the authors start them equal."""
    first = heads[0]
    return nn.ModuleList(
        [first if shared or i == 0 else copy.deepcopy(first) for i in range(narrow)]
        + heads[narrow:]
    )
