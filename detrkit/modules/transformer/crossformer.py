"""CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention. Wang et al.,
ICLR 2022, arXiv:2108.00154.

y = W softmax(q kᵀ / sqrt(d) + b(dy, dx)) v,  b a perceptron of the offset

The group is the whole map here. Offsets are pixels: biases of maps larger than those of training
are extrapolated.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.channel_attention import check_heads
from detrkit.layers.position_bias import DynamicPositionBias
from detrkit.layers.tokens import from_tokens, merge_heads, size_of, split_heads, tokens_of
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="transformer",
    paper="arXiv:2108.00154",
    venue="ICLR 2022",
    example={"in_channels": 64, "num_heads": 4},
    traits=Traits(),
)
class DPBAttention(nn.Module):
    """Self-attention with a dynamic position bias. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C; the bias's perceptron is C // 16 wide, and degenerate below 4.
        num_heads: divides C.
        qkv_bias: whether queries, keys and values have a bias.
    """

    def __init__(self, in_channels: int, num_heads: int = 8, qkv_bias: bool = True) -> None:
        super().__init__()
        check_heads(in_channels, num_heads)
        if in_channels < 16:
            raise ValueError(f"DPBAttention needs at least 16 channels, got {in_channels}")
        self.out_channels = in_channels
        self.num_heads = num_heads
        self.qkv = nn.Linear(in_channels, 3 * in_channels, bias=qkv_bias)
        self.bias = DynamicPositionBias(in_channels // 4 // 4, num_heads)
        self.proj = nn.Linear(in_channels, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(tokens_of(x)).chunk(3, dim=-1)
        q, k, v = (split_heads(t, self.num_heads) for t in qkv)
        bias = self.bias(*size_of(x)).to(q.dtype)
        out = merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None]))
        return from_tokens(self.proj(out), size_of(x))
