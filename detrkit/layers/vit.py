"""The parts of a vision transformer: patches, attention with RoPE, feed-forward, block.

ViT, arXiv:2010.11929. Names in the state dict are those of timm and DINO (`attn.qkv`, `mlp.fc1`,
`ls1.gamma`, …).

    B  images    N  tokens    C  channels    M  heads    c  channels of a head, C / M
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.layers.attention import attend
from detrkit.layers.rope import rotate

#: Cosine and sine of `RotaryEmbedding2d`.
Turns = tuple[Tensor, Tensor]


class PatchEmbed(nn.Module):
    """Linear map of square patches. (B, in, H, W) -> (B, C, H / patch, W / patch), rounded down.

    Args:
        embed_dim: C.
        patch_size: side of a patch in pixels.
        in_channels: of the images.
    """

    def __init__(self, embed_dim: int, patch_size: int = 16, in_channels: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images)


class QKVWithoutKeyBias(nn.Linear):
    """The joint map to queries, keys and values whose bias is masked: DINOv3's keys have none.

    A bias of the keys adds the same number to all scores of a query, which softmax ignores. The
    mask is part of the state dict; without a checkpoint it is 1 for queries and values and 0 for
    keys, where the authors' constructor leaves NaN.

    Args:
        embed_dim: C. (…, C) -> (…, 3C).
    """

    bias_mask: Tensor

    def __init__(self, embed_dim: int) -> None:
        super().__init__(embed_dim, 3 * embed_dim)
        mask = torch.ones(3, embed_dim)
        mask[1] = 0
        self.register_buffer("bias_mask", mask.flatten())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias * self.bias_mask)


class RotaryAttention(nn.Module):
    """Multi-head self-attention whose queries and keys are turned by their tokens' places.

    Args:
        embed_dim: C.
        num_heads: M; divides C.
        key_bias: whether keys have a bias (see `QKVWithoutKeyBias`).

    Raises:
        ConfigError: `num_heads` does not divide `embed_dim`.
    """

    def __init__(self, embed_dim: int, num_heads: int, key_bias: bool = True) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ConfigError(f"embed_dim {embed_dim} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim) if key_bias else QKVWithoutKeyBias(embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor, turns: Turns) -> Tensor:
        """Tokens (B, N, C) -> (B, N, C); `turns` are two (N, 1, c / 2)."""
        out = attend(*self.heads(x, turns))  # (B, M, N, c)
        return self.proj(out.transpose(1, 2).flatten(2))

    def heads(self, x: Tensor, turns: Turns) -> tuple[Tensor, Tensor, Tensor]:
        """Turned queries and keys, and values, of each head, (B, M, N, c)."""
        heads = self.qkv(x).unflatten(-1, (3 * self.num_heads, -1))  # (B, N, 3M, c)
        qk, v = heads.split([2 * self.num_heads, self.num_heads], dim=2)
        q, k = rotate(qk, *turns).chunk(2, dim=2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return q, k, v


class FeedForward(nn.Module):
    """Two linear layers with GELU between them. (…, C) -> (…, C).

    Args:
        embed_dim: C.
        hidden_dim: width between the layers.
    """

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class GatedFeedForward(nn.Module):
    """SwiGLU, arXiv:2002.05202: w3(silu(w1 x) · w2 x). (…, C) -> (…, C).

    Args:
        embed_dim: C.
        hidden_dim: width of gate and value.
    """

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(embed_dim, hidden_dim)
        self.w2 = nn.Linear(embed_dim, hidden_dim)
        self.w3 = nn.Linear(hidden_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


class LayerScale(nn.Module):
    """A learnt factor per channel on a residual branch; CaiT, arXiv:2103.17239, section 2.

    Args:
        embed_dim: C.
        start: value of the factors.
    """

    def __init__(self, embed_dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((embed_dim,), start))

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """The residual sum x + gamma · branch, (…, C)."""
        return torch.addcmul(x, branch, self.gamma)


class ResidualSum(nn.Module):
    """x + branch: what stands in the place of a `LayerScale` where there is none."""

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        return x + branch


class Block(nn.Module):
    """Attention and feed-forward, each behind a layer norm and around a shortcut.

    Args:
        embed_dim: C.
        num_heads: M.
        hidden_dim: width of the feed-forward part.
        gated: whether that part is SwiGLU.
        key_bias: whether keys have a bias.
        layer_scale: start value of the factors on the branches, or None for none.
        eps: of the layer norms.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        *,
        gated: bool = False,
        key_bias: bool = True,
        layer_scale: float | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps)
        self.attn = RotaryAttention(embed_dim, num_heads, key_bias)
        self.ls1 = _residual(embed_dim, layer_scale)
        self.norm2 = nn.LayerNorm(embed_dim, eps)
        self.mlp = (GatedFeedForward if gated else FeedForward)(embed_dim, hidden_dim)
        self.ls2 = _residual(embed_dim, layer_scale)

    def forward(self, x: Tensor, turns: Turns) -> Tensor:
        """Tokens (B, N, C) -> (B, N, C); `turns` as for `RotaryAttention`."""
        x = self.ls1(x, self.attn(self.norm1(x), turns))
        return self.ls2(x, self.mlp(self.norm2(x)))


def _residual(embed_dim: int, start: float | None) -> nn.Module:
    return ResidualSum() if start is None else LayerScale(embed_dim, start)
