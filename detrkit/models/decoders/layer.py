"""The decoder layer of the family: self-attention, deformable cross-attention, feed-forward net.

RT-DETRv2   LayerNorm after each part; projected values; perceptron
D-FINE      LayerNorm; a gate instead of the second norm; values as they are; perceptron
DEIMv2      RMSNorm; with or without the gate; values as they are; SwiGLU
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.layers.activations import get_activation
from detrkit.layers.attention import SelfAttention
from detrkit.layers.deformable import MSDeformableAttention
from detrkit.layers.mlp import SwiGLUFFN
from detrkit.layers.norm import RMSNorm
from detrkit.models.decoders.settings import DecoderSettings

#: Largest finite float16; keeps half precision out of infinity.
_HALF_MAX = 65504.0


class Gate(nn.Module):
    """Weighs two streams channel by channel and norms the sum; starts with 0.5 each.

    D-FINE's "target gating layer", arXiv:2410.13842, section 5.1.

    Args:
        d_model: C.
        norm: class of the norm.
    """

    def __init__(self, d_model: int, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * d_model, 2 * d_model)
        self.norm = norm(d_model)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor, update: Tensor) -> Tensor:
        """(B, Q, C), (B, Q, C) -> (B, Q, C)."""
        keep, take = self.gate(torch.cat([x, update], dim=-1)).sigmoid().chunk(2, dim=-1)
        return self.norm(keep * x + take * update)


class DecoderLayer(nn.Module):
    """Refines queries by each other and by the feature maps.

    Args:
        settings: `hidden_dim` C, `nhead`, `dim_feedforward`, `dropout`, `activation`,
            `num_levels`, `num_points` and `cross_attn_method` are used.
        scale: factor on both widths.
        gated: a gate joins what the cross-attention found, not a sum and a norm.
        project: whether the cross-attention projects its values and its result.
        rms_norm: norms are RMSNorm, not LayerNorm.
        swiglu: the feed-forward net is a SwiGLU of half the hidden width, so that it has about
            as many parameters; `activation` is then not used.

    Raises:
        ConfigError: the scaled width is not divisible by the number of heads.
    """

    def __init__(
        self,
        settings: DecoderSettings,
        scale: float = 1.0,
        *,
        gated: bool = False,
        project: bool = False,
        rms_norm: bool = False,
        swiglu: bool = False,
    ) -> None:
        super().__init__()
        width, hidden = (round(scale * n) for n in (settings.hidden_dim, settings.dim_feedforward))
        if width % settings.nhead:
            raise ConfigError(
                f"{settings.owner}.layer_scale: layers {scale} times as wide have {width} "
                f"channels, which {settings.nhead} heads do not divide"
            )
        norm: type[nn.Module] = RMSNorm if rms_norm else nn.LayerNorm
        dropout = settings.dropout
        self.self_attn = SelfAttention(width, settings.nhead, dropout)
        self.dropout1 = nn.Dropout(dropout)
        self.norm1 = norm(width)
        self.cross_attn = MSDeformableAttention(
            width, settings.nhead, settings.num_levels, settings.num_points,
            settings.cross_attn_method, project=project,
        )  # fmt: skip
        self.dropout2 = nn.Dropout(dropout)
        self.gateway = Gate(width, norm) if gated else None
        self.norm2 = None if gated else norm(width)
        self.swish_ffn = SwiGLUFFN(width, hidden // 2, width) if swiglu else None
        if not swiglu:
            self.linear1 = nn.Linear(width, hidden)
            self.activation = get_activation(settings.activation)
            self.dropout3 = nn.Dropout(dropout)
            self.linear2 = nn.Linear(hidden, width)
            nn.init.xavier_uniform_(self.linear1.weight)
            nn.init.xavier_uniform_(self.linear2.weight)
        self.dropout4 = nn.Dropout(dropout)
        self.norm3 = norm(width)

    def forward(
        self,
        x: Tensor,
        boxes_cxcywh: Tensor,
        values: Sequence[Tensor],
        position: Tensor,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """One round.

        Args:
            x: (B, Q, C) queries.
            boxes_cxcywh: (B, Q, 4) where they look, 0–1.
            values: sampling maps (B·M, c, h, w), one per level.
            position: (B, Q, C) embedding of the boxes.
            allowed: (Q, Q) bool, True where the row's query may see the column's; None: all.

        Returns:
            (B, Q, C).
        """
        x = self.norm1(x + self.dropout1(self.self_attn(x, position, allowed)))
        found = self.dropout2(self.cross_attn(x + position, boxes_cxcywh, values))
        if self.gateway is not None:
            x = self.gateway(x, found)
        else:
            assert self.norm2 is not None
            x = self.norm2(x + found)
        x = x + self.dropout4(self._feed_forward(x))
        return self.norm3(x.clamp(-_HALF_MAX, _HALF_MAX))

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self.swish_ffn is not None:
            return self.swish_ffn(x)
        return self.linear2(self.dropout3(self.activation(self.linear1(x))))
