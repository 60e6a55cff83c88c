"""BiFormer: Vision Transformer with Bi-Level Routing Attention. Zhu et al., CVPR 2023,
arXiv:2303.08810.

Q_r, K_r = means of q and k in each region;  I = topk(Q_r K_rᵀ)
y = W (softmax(q k_Iᵀ / sqrt(C)) v_I + dwconv(v))

Scores are scaled by the full width, as in the authors' code. Padded pixels take part in attention.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import MapSizeError
from detrkit.layers.channel_attention import check_heads
from detrkit.layers.depthwise import depthwise
from detrkit.layers.tokens import merge_heads, size_of, split_heads
from detrkit.layers.windows import from_window_tokens, padded, window_tokens
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="transformer",
    paper="arXiv:2303.08810",
    venue="CVPR 2023",
    example={"in_channels": 16, "num_heads": 4, "n_win": 4},
    traits=Traits(),
)
class BiLevelRoutingAttention(nn.Module):
    """Every region attends to the regions most like it. (B, C, H, W) -> (B, C, H, W).

    The map is padded with zeros to n_win x n_win regions of one size.

    Args:
        in_channels: C.
        num_heads: divides C.
        n_win: regions along each side.
        topk: regions that a region attends to.
        side_dwconv: side of the convolution of the values; odd.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 8,
        n_win: int = 7,
        topk: int = 4,
        side_dwconv: int = 3,
    ) -> None:
        super().__init__()
        check_heads(in_channels, num_heads)
        if not 1 <= topk <= n_win**2:
            raise ValueError(f"topk must be from 1 to n_win² = {n_win**2}, got {topk}")
        self.out_channels = in_channels
        self.num_heads = num_heads
        self.n_win = n_win
        self.topk = topk
        self.qkv = nn.Conv2d(in_channels, 3 * in_channels, 1)
        self.lepe = depthwise(in_channels, side_dwconv)
        self.proj = nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = size_of(x)
        x = padded(x, (self.n_win, self.n_win))
        region = x.shape[2] // self.n_win, x.shape[3] // self.n_win
        q, k, v = self.qkv(x).chunk(3, dim=1)
        means = [window_tokens(t, region).mean(2) for t in (q, k)]  # (B, R, C) each
        out = self._attend(q, k, v, region, self._routes(*means)) + self.lepe(v)
        return self.proj(out[:, :, :height, :width])

    @torch.no_grad()
    def _routes(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, R, topk): the regions that each one attends to."""
        return (q.float() @ k.float().transpose(1, 2)).topk(self.topk, dim=-1).indices

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, region: tuple[int, int], routes: Tensor
    ) -> Tensor:
        """Of each region to the pixels of its `routes`; maps of whole regions."""
        scale = q.shape[1] ** -0.5
        size = size_of(q)
        q = window_tokens(q, region)  # (B, R, t, C)
        kv = window_tokens(torch.cat([k, v], dim=1), region)
        index = routes.flatten(1)[:, :, None, None].expand(-1, -1, kv.shape[2], kv.shape[3])
        kept = kv.gather(1, index).unflatten(1, (-1, self.topk)).flatten(2, 3)  # (B, R, topk·t, 2C)
        q, k, v = (
            split_heads(t, self.num_heads).flatten(0, 1) for t in (q, *kept.chunk(2, dim=-1))
        )
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)  # (B·R, M, t, c)
        out = merge_heads(out).unflatten(0, (routes.shape[0], -1))
        return from_window_tokens(out, region, size)


@MODULES.register(
    "nchwBRA",
    family="transformer",
    paper="arXiv:2303.08810",
    venue="CVPR 2023",
    example={"in_channels": 16, "num_heads": 4, "n_win": 4},
    traits=Traits(smallest=4),
)
class NchwBRA(BiLevelRoutingAttention):
    """The same with regions of floor(H / n_win) x floor(W / n_win). (B, C, H, W) -> (B, C, H, W).

    There can be more than n_win² regions. Queries, keys and values are padded with zeros in the
    place of the map, and the means leave them out. Where n_win divides H and W both are equal.

    Args:
        in_channels: C.
        num_heads: divides C.
        n_win: regions along each side; maps have at least so many pixels.
        topk: regions that a region attends to.
        side_dwconv: side of the convolution of the values; odd.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = size_of(x)
        if min(height, width) < self.n_win:
            raise MapSizeError(
                f"nchwBRA needs a map of at least {self.n_win} pixels a side, got {height}x{width}"
            )
        region = height // self.n_win, width // self.n_win
        q, k, v = self.qkv(x).chunk(3, dim=1)
        ones = x.new_ones(1, 1, height, width)
        counts = window_tokens(padded(ones, region), region).mean(2)  # (1, R, 1)
        local = self.lepe(v)
        q, k, v = (padded(t, region) for t in (q, k, v))
        means = [window_tokens(t, region).mean(2) / counts for t in (q, k)]
        out = self._attend(q, k, v, region, self._routes(*means))
        return self.proj(out[:, :, :height, :width] + local)
