"""The decoder layer of D-FINE: self-attention, deformable cross-attention behind a gate, FFN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.models.layers.activations import get_activation
from detrkit.models.layers.attention import SelfAttention
from detrkit.models.layers.deformable import MSDeformableAttention
from detrkit.ops.deformable import SamplingMethod

#: Largest finite float16; keeps half precision out of infinity.
_HALF_MAX = 65504.0


class Gate(nn.Module):
    """Weighs two streams channel by channel and norms the sum; starts with 0.5 each.

    D-FINE's "target gating layer", arXiv:2410.13842, section 5.1.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * d_model, 2 * d_model)
        self.norm = nn.LayerNorm(d_model)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor, update: Tensor) -> Tensor:
        """(B, Q, C), (B, Q, C) -> (B, Q, C)."""
        keep, take = self.gate(torch.cat([x, update], dim=-1)).sigmoid().chunk(2, dim=-1)
        return self.norm(keep * x + take * update)


class DecoderLayer(nn.Module):
    """Refines queries by each other and by the feature maps.

    Args:
        d_model: C.
        n_head: heads of both attentions.
        dim_feedforward: width of the feed-forward net.
        dropout: in training.
        activation: of the feed-forward net.
        n_levels, n_points, cross_attn_method: see `MSDeformableAttention`.
    """

    def __init__(
        self,
        d_model: int = 256,
        n_head: int = 8,
        dim_feedforward: int = 1024,
        dropout: float = 0.0,
        activation: str = "relu",
        n_levels: int = 4,
        n_points: int | Sequence[int] = 4,
        cross_attn_method: SamplingMethod = "default",
    ) -> None:
        super().__init__()
        self.self_attn = SelfAttention(d_model, n_head, dropout)
        self.dropout1 = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(d_model)
        self.cross_attn = MSDeformableAttention(
            d_model, n_head, n_levels, n_points, cross_attn_method
        )
        self.dropout2 = nn.Dropout(dropout)
        self.gateway = Gate(d_model)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.activation = get_activation(activation)
        self.dropout3 = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.dropout4 = nn.Dropout(dropout)
        self.norm3 = nn.LayerNorm(d_model)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

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
        x = self.gateway(x, self.dropout2(self.cross_attn(x + position, boxes_cxcywh, values)))
        hidden = self.dropout3(self.activation(self.linear1(x)))
        x = x + self.dropout4(self.linear2(hidden))
        return self.norm3(x.clamp(-_HALF_MAX, _HALF_MAX))
