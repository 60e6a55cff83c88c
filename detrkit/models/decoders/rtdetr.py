"""The decoder of the first RT-DETR: RT-DETRv2's under other names, with other start values.

RT-DETR, Zhao et al., CVPR 2024, arXiv:2304.08069.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from torch import Tensor, nn

from detrkit.models.decoders.layer import DecoderLayer
from detrkit.models.decoders.rtdetrv2 import RTDETRTransformerv2
from detrkit.models.decoders.two_stage import Queries
from detrkit.models.outputs import Outputs
from detrkit.registry import MODULES


@MODULES.register(share=("num_classes",), paper="arXiv:2304.08069")
class RTDETRTransformer(RTDETRTransformerv2):
    """Fused feature maps -> classes and boxes.

    Args that all decoders share are explained by `DecoderSettings`. Of its own, or special:

    Args:
        position_embed_type: accepted from authors' files, where it has no effect.
        learnt_init_query: queries start from a learned embedding.
        eval_spatial_size: accepted from authors' files; anchors are not part of the state dict and
            are made for the sizes that come.
        version: "v1" or "v2" names of the layers before the encoder's heads in the state dict.

    Raises:
        ConfigError: the arguments do not fit each other.
    """

    def __init__(
        self,
        num_classes: int = 80,
        hidden_dim: int = 256,
        num_queries: int = 300,
        position_embed_type: Literal["sine", "learned"] = "sine",
        feat_channels: Sequence[int] = (512, 1024, 2048),
        feat_strides: Sequence[int] = (8, 16, 32),
        num_levels: int = 3,
        num_points: int = 4,
        nhead: int = 8,
        num_layers: int = 6,
        dim_feedforward: int = 1024,
        dropout: float = 0.0,
        activation: str = "relu",
        num_denoising: int = 100,
        label_noise_ratio: float = 0.5,
        box_noise_scale: float = 1.0,
        learnt_init_query: bool = False,
        eval_spatial_size: Sequence[int] | None = None,
        eval_idx: int = -1,
        eps: float = 1e-2,
        aux_loss: bool = True,
        version: Literal["v1", "v2"] = "v1",
        random_negatives: int = 0,
        random_negative_iou: float = 0.2,
    ) -> None:
        super().__init__(
            num_classes, hidden_dim, num_queries, feat_channels, feat_strides, num_levels,
            num_points, nhead, num_layers, dim_feedforward, dropout, activation, num_denoising,
            label_noise_ratio, box_noise_scale, learnt_init_query, None, eval_idx, eps, aux_loss,
            random_negatives=random_negatives, random_negative_iou=random_negative_iou,
        )  # fmt: skip
        if version == "v1":
            self.enc_output = nn.Sequential(*cast(nn.Sequential, self.enc_output))
        for projection in self.input_proj:
            cast(nn.Conv2d, cast(nn.Sequential, projection)[0]).reset_parameters()
        layers = [cast(DecoderLayer, layer) for layer in self.decoder.layers]
        layers[0].linear1.reset_parameters()
        layers[0].linear2.reset_parameters()
        start = layers[0].state_dict()
        for layer in layers:
            layer.load_state_dict(start)  # all start equal
            points = layer.cross_attn.num_points_scale
            layer.cross_attn.register_buffer("num_points_scale", points, persistent=False)

    def _decode(self, queries: Queries, maps: Sequence[Tensor]) -> Outputs:
        """As RT-DETRv2, but the encoder's predictions count as one more layer's."""
        out = super()._decode(queries, maps)
        if "aux_outputs" in out:
            out["aux_outputs"] += out.pop("enc_aux_outputs")
            del out["enc_meta"]
        return out
