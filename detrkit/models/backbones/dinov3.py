"""DINOv3 ViT-S/16 and ViT-S+/16, arXiv:2508.10104.

Written from the paper and from the names in its checkpoints. A class token and four registers
stand before the patches; branches have layer scale, keys have no bias, and RoPE's coordinates
are rescaled at random in training. The weights are Meta's, under the DINOv3 licence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detrkit.layers.rope import RotaryEmbedding2d
from detrkit.layers.vit import Block, PatchEmbed
from detrkit.models.backbones.vit import VisionTransformer, init_linear_layers


@dataclass(frozen=True)
class Architecture:
    """One size of DINOv3.

    Attributes:
        embed_dim: width of the tokens.
        depth: number of blocks.
        num_heads: heads of the attention.
        hidden_dim: width of the feed-forward part.
        gated: whether that is SwiGLU.
    """

    embed_dim: int
    depth: int
    num_heads: int
    hidden_dim: int
    gated: bool = False


#: name -> architecture
ARCHITECTURES: dict[str, Architecture] = {
    "dinov3_vits16": Architecture(384, 12, 6, 4 * 384),
    "dinov3_vits16plus": Architecture(384, 12, 6, 4 * 384, gated=True),
}

_REGISTERS = 4


class DINOv3(VisionTransformer):
    """DINOv3. images (B, in, H, W) -> maps (B, C, H/16, W/16), each behind the final norm.

    Args:
        architecture: its widths.
        in_channels: of the images.
    """

    def __init__(self, architecture: Architecture, in_channels: int = 3) -> None:
        super().__init__()
        dim, heads = architecture.embed_dim, architecture.num_heads
        self.embed_dim = dim
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.storage_tokens = nn.Parameter(torch.empty(1, _REGISTERS, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.patch_embed = PatchEmbed(dim, in_channels=in_channels)
        self.rope_embed = RotaryEmbedding2d(dim // heads, rescale=2.0)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                heads,
                architecture.hidden_dim,
                gated=architecture.gated,
                key_bias=False,
                layer_scale=1e-5,
                eps=1e-5,
            )
            for _ in range(architecture.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.storage_tokens, std=0.02)
        init_linear_layers(self)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def pretrained_part(self) -> nn.Module:
        """What a file of Meta's weights holds."""
        return self

    def prefix(self) -> Tensor:
        # nothing is masked here, but the token is a parameter: its gradient is zero rather than
        # missing, so that optimizers decay it and distributed training does not wait for it
        return torch.cat([self.cls_token + 0 * self.mask_token, self.storage_tokens], dim=1)

    def finish(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens)
