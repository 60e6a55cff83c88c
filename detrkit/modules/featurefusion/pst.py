"""PST: pyramid sparse transformer. Hu et al., arXiv:2505.12772, 2025.

    coarse = softmax(q k_uᵀ / √32) v_u                    fine queries, keys of the coarse map u
    s_j = mean over queries of q k_jᵀ                     score of a coarse token
    fine = softmax(q k_fᵀ / √32) v_f                      keys at the children of the k best tokens
    y = g · fine + (1 - g) · coarse + pos(v_u)

Trained with k = 0 (coarse only) and run with k > 0, without new weights. The authors draw the
tokens with Gumbel noise even in evaluation; here the k best are taken, always the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import MapSizeError
from detrkit.layers.conv import ConvNormAct
from detrkit.registry import MODULES, Traits

#: Channels of a head.
HEAD = 32


class PyramidAttention(nn.Module):
    """[(B, C, 2h, 2w), (B, C, h, w)] -> (B, C, 2h, 2w).

    Args:
        channels: C, a multiple of 32.
        top_k: coarse tokens whose children are attended to; 0: none.
    """

    def __init__(self, channels: int, top_k: int) -> None:
        super().__init__()
        if channels % HEAD:
            raise ValueError(f"the width inside must be a multiple of {HEAD}, got {channels}")
        self.heads = channels // HEAD
        self.top_k = top_k
        self.q = ConvNormAct(channels, channels, 1)
        self.kv = ConvNormAct(channels, 2 * channels, 1)
        self.position = ConvNormAct(channels, channels, 7, groups=channels)
        self.gate = nn.Conv1d(2 * HEAD, HEAD, 1)
        self.gate.requires_grad_(top_k > 0)  # only fine attention uses it
        self.project = ConvNormAct(channels, channels, 1)

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        if (height, width) != (2 * coarse.shape[2], 2 * coarse.shape[3]):
            raise MapSizeError(
                f"the first map must be twice as large as the second, got {height}x{width} and "
                f"{coarse.shape[2]}x{coarse.shape[3]}"
            )
        q = self.q(x).flatten(2).unflatten(1, (self.heads, HEAD)).transpose(2, 3)
        k, v = self._keys(coarse)
        similarity = q @ k.transpose(2, 3) * HEAD**-0.5  # (B, heads, H·W, h·w)
        out = similarity.softmax(-1) @ v
        if 0 < self.top_k <= k.shape[2]:
            fine = self._fine(q, x, similarity.mean(2), coarse.shape[3])
            gate = self._gate(out, fine)
            out = gate * fine + (1 - gate) * out
        out = out.transpose(2, 3).reshape(batch, channels, height, width)
        values = v.transpose(2, 3).reshape(batch, channels, *coarse.shape[2:])
        position = F.interpolate(self.position(values), size=(height, width), mode="bilinear")
        return self.project(out + position)

    def _keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, tokens, 32)."""
        pairs = self.kv(x).flatten(2).unflatten(1, (self.heads, 2 * HEAD)).transpose(2, 3)
        return pairs.split(HEAD, dim=-1)

    def _fine(self, q: Tensor, x: Tensor, scores: Tensor, coarse_width: int) -> Tensor:
        """Attention to the children of the best coarse tokens. (B, heads, H·W, 32)."""
        best = scores.topk(self.top_k, dim=-1).indices  # (B, heads, k)
        row, column = best // coarse_width, best % coarse_width
        first = 2 * row * x.shape[3] + 2 * column
        children = torch.cat([first, first + 1, first + x.shape[3], first + x.shape[3] + 1], -1)
        chosen = children[..., None].expand(-1, -1, -1, HEAD)
        k, v = (part.gather(2, chosen) for part in self._keys(x))
        return (q @ k.transpose(2, 3) * HEAD**-0.5).softmax(-1) @ v

    def _gate(self, coarse: Tensor, fine: Tensor) -> Tensor:
        both = torch.cat([coarse, fine], dim=-1).flatten(0, 1).transpose(1, 2)
        return self.gate(both).sigmoid().transpose(1, 2).unflatten(0, coarse.shape[:2])


class PSTBlock(nn.Module):
    """Attention and a feed-forward part, each with a shortcut."""

    def __init__(self, channels: int, mlp_ratio: float, top_k: int) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.attention = PyramidAttention(channels, top_k)
        self.mlp = nn.Sequential(
            ConvNormAct(channels, hidden, 1, act="silu"), ConvNormAct(hidden, channels, 1)
        )

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        x = x + self.attention(x, coarse)
        return x + self.mlp(x)


@MODULES.register(
    family="featurefusion",
    paper="arXiv:2505.12772",
    venue="arXiv 2025",
    example={"in_channels": [16, 24], "out_channels": 64, "top_k": 3},
    traits=Traits(sides=(1, 0.5)),
)
class PST(nn.Module):
    """[(B, C₀, 2h, 2w), (B, C₁, h, w)] -> (B, out_channels, 2h, 2w).

    Args:
        in_channels: C₀ of the fine map, C₁ of the coarse one.
        out_channels: None: C₀.
        num_blocks: blocks in a row, all of whose outputs are fused.
        mlp_ratio: width of the feed-forward part.
        expansion: width inside, relative to `out_channels`; it must be a multiple of 32.
        top_k: coarse tokens whose children are attended to; 0: none, as in training.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int | None = None,
        num_blocks: int = 1,
        mlp_ratio: float = 2.0,
        expansion: float = 0.5,
        top_k: int = 0,
    ) -> None:
        super().__init__()
        first, second = in_channels
        self.out_channels = first if out_channels is None else out_channels
        hidden = int(self.out_channels * expansion)
        self.fine = ConvNormAct(first, hidden, 1, act="silu")
        self.coarse = ConvNormAct(second, hidden, 1, act="silu")
        self.blocks = nn.ModuleList(PSTBlock(hidden, mlp_ratio, top_k) for _ in range(num_blocks))
        self.fuse = ConvNormAct((1 + num_blocks) * hidden, self.out_channels, 1, act="silu")

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        found, coarse = [self.fine(maps[0])], self.coarse(maps[1])
        for block in self.blocks:
            found.append(block(found[-1], coarse))
        return self.fuse(torch.cat(found, dim=1))
