"""Adapt or Perish: Adaptive Sparse Transformer with Attentive Feature Refinement for Image
Restoration (AST). Zhou et al., CVPR 2024.

S = q kᵀ / sqrt(d) + B
A = w1 softmax(S) + w2 relu(S)²,  w = softmax of two numbers
y = W A v,  in shifted windows

Padded pixels are masked. The squares are not normalised: values can be in the hundreds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.channel_attention import check_heads
from detrkit.layers.position_bias import RelativePositionBias
from detrkit.layers.tokens import merge_heads, size_of, split_heads
from detrkit.layers.windows import (
    from_window_tokens,
    neighbours_in_windows,
    padded,
    window_tokens,
)
from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="transformer",
    paper="CVPR 2024 (Zhou et al., Adapt or Perish)",
    venue="CVPR 2024",
    example={"in_channels": 16, "num_heads": 4},
    traits=Traits(float32="squares of the scores"),
)
class AdaptiveSparseSA(nn.Module):
    """Window attention, part softmax and part squared ReLU. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        num_heads: divides C.
        window_size: side of the windows; maps are padded to whole ones.
        shift_size: by which the windows are shifted; 0 to below `window_size`.
        sparse: False leaves the squared part out: Swin's attention.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 8,
        window_size: int = 4,
        shift_size: int = 2,
        sparse: bool = True,
    ) -> None:
        super().__init__()
        check_heads(in_channels, num_heads)
        if not 0 <= shift_size < window_size:
            raise ValueError(f"shift_size must be from 0 to {window_size - 1}, got {shift_size}")
        self.out_channels = in_channels
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift_size = shift_size
        self.q = nn.Linear(in_channels, in_channels)
        self.kv = nn.Linear(in_channels, 2 * in_channels)
        self.bias = RelativePositionBias(window_size, num_heads)
        self.mix = nn.Parameter(torch.ones(2)) if sparse else None
        self.proj = nn.Linear(in_channels, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = size_of(x)
        side, shift = self.window_size, self.shift_size
        allowed = neighbours_in_windows((height, width), side, shift, x, padding=True)
        x = padded(x, side)
        size = size_of(x)
        x = window_tokens(x.roll((-shift, -shift), (2, 3)), side)  # (B, n, t, C)
        q, k, v = (
            split_heads(t, self.num_heads) for t in (self.q(x), *self.kv(x).chunk(2, dim=-1))
        )
        weights = self._weights(q, k, allowed[:, None])
        with torch.autocast(x.device.type, enabled=False):
            out = merge_heads(weights @ v.to(weights.dtype)).to(v.dtype)
        out = from_window_tokens(self.proj(out), side, size).roll((shift, shift), (2, 3))
        return out[:, :, :height, :width]

    def _weights(self, q: Tensor, k: Tensor, allowed: Tensor) -> Tensor:
        """(B, n, M, t, t) in at least float32."""
        with torch.autocast(q.device.type, enabled=False):
            scores = precise(q) * q.shape[-1] ** -0.5 @ precise(k).transpose(-2, -1)
            scores = (scores + self.bias()).masked_fill(~allowed, -torch.inf)
            if self.mix is None:
                return scores.softmax(-1)
            dense, sparse = self.mix.softmax(0).unbind(0)
            return dense * scores.softmax(-1) + sparse * scores.relu().square()
