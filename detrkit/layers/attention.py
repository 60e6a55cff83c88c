"""Self-attention with the parameter names of `nn.MultiheadAttention`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Longest sequence of which `attend` may keep the whole attention matrix.
_SHORT = 1024


class SelfAttention(nn.Module):
    """Multi-head self-attention; positions are added to queries and keys, not to values.

    State dict and start values are those of `nn.MultiheadAttention`. Queries and keys come from
    one product, and no attention matrix is returned, so that the fused kernels apply.

    Args:
        embed_dim: C.
        num_heads: M; divides C.
        dropout: on the attention weights, in training.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, x: Tensor, position: Tensor | None = None, allowed: Tensor | None = None
    ) -> Tensor:
        """Attends from every token to every token.

        Args:
            x: (B, N, C).
            position: (B or 1, N, C), added to queries and keys.
            allowed: (N, N) bool, True where the row's token may see the column's; None: all.

        Returns:
            (B, N, C).
        """
        q, k, v = self.heads(x, position)
        out = attend(q, k, v, allowed, self.dropout if self.training else 0.0)  # (B, M, N, c)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def heads(self, x: Tensor, position: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of each head, (B, M, N, c); arguments as for `forward`."""
        channels = x.shape[-1]
        if position is None:
            q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            w_qk, w_v = self.in_proj_weight.split([2 * channels, channels])
            b_qk, b_v = self.in_proj_bias.split([2 * channels, channels])
            q, k = F.linear(x + position, w_qk, b_qk).chunk(2, dim=-1)
            v = F.linear(x, w_v, b_v)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        return q, k, v


def attend(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q kᵀ / √c) v of each head.

    Args:
        q, k, v: (B, M, N, c).
        allowed: (N, N) bool, True where the row's token may see the column's; None: all.
        dropout: on the attention weights.

    Returns:
        (B, M, N, c).
    """
    plain = (
        q.device.type == "cpu"
        and q.dtype == torch.bfloat16
        and q.requires_grad
        and q.shape[-2] <= _SHORT
        and not dropout
    )
    if not plain:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
    # the fused kernel's gradient has no bf16 of its own on CPUs: 1.7 times slower than products
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if allowed is not None:
        with torch.no_grad():  # weights of zero have no gradient: none has to be masked either
            weights.masked_fill_(~allowed, -torch.inf)
    return weights.softmax(-1).to(v.dtype) @ v
