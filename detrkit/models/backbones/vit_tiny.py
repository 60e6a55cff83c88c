"""ViT-Tiny and ViT-Tiny+, which the authors of DEIMv2 distilled from DINOv3 ViT-S.

DEIMv2, arXiv:2509.20787, section 3: a plain transformer with RoPE, a class token, no registers,
no layer scale and no norm at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.rope import RotaryEmbedding2d
from detrkit.layers.vit import Block, PatchEmbed
from detrkit.models.backbones.vit import VisionTransformer, init_linear_layers

DEPTH = 12


class _Transformer(VisionTransformer):
    def __init__(self, embed_dim: int, num_heads: int, in_channels: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.patch_embed = PatchEmbed(embed_dim, in_channels=in_channels)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, 4 * embed_dim, eps=1e-6) for _ in range(DEPTH)
        )
        self.rope_embed = RotaryEmbedding2d(embed_dim // num_heads)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        init_linear_layers(self)

    def prefix(self) -> Tensor:
        return self.cls_token


class ViTTiny(nn.Module):
    """ViT-Tiny. images (B, in, H, W) -> maps (B, C, H/16, W/16).

    Args:
        embed_dim: C: 192, and 256 for ViT-Tiny+.
        num_heads: 3, and 4 for ViT-Tiny+.
        in_channels: of the images.

    Raises:
        ConfigError: `num_heads` does not divide `embed_dim`, or heads cannot be turned.
    """

    def __init__(self, embed_dim: int = 192, num_heads: int = 3, in_channels: int = 3) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        # one level deeper than it need be: the authors' names
        self._model = _Transformer(embed_dim, num_heads, in_channels)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self._model.blocks)

    @property
    def pretrained_part(self) -> nn.Module:
        """What the file of distilled weights holds."""
        return self._model

    def forward(self, images: Tensor, indexes: Sequence[int]) -> list[Tensor]:
        """As `VisionTransformer.forward`."""
        return self._model(images, indexes)
