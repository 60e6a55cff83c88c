"""What the vision transformers of DEIMv2 have in common: from images to maps of patch tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.rope import RotaryEmbedding2d
from detrkit.layers.vit import PatchEmbed


class VisionTransformer(nn.Module, ABC):
    """A plain vision transformer with RoPE.

    A subclass makes `patch_embed`, `rope_embed` and `blocks`, in the order of its checkpoints'
    names, and says which tokens stand before the patches and which norm ends it.

    Attributes:
        embed_dim: C, the width of the tokens.
    """

    embed_dim: int
    patch_embed: PatchEmbed
    rope_embed: RotaryEmbedding2d
    blocks: nn.ModuleList

    @abstractmethod
    def prefix(self) -> Tensor:
        """Tokens before the patches, (1, P, C)."""

    def finish(self, tokens: Tensor) -> Tensor:
        """Tokens as they leave a block, (B, N, C) -> tokens as they leave the transformer."""
        return tokens

    def forward(self, images: Tensor, indexes: Sequence[int]) -> list[Tensor]:
        """Maps of the patch tokens behind some blocks.

        Args:
            images: (B, in, H, W) float, normalised.
            indexes: of the blocks, rising; blocks behind the last one do not run.

        Returns:
            As many (B, C, h, w), h and w the sides in whole patches.
        """
        patches = self.patch_embed(images)
        batch, _, h, w = patches.shape
        prefix = self.prefix()
        tokens = patches.flatten(2).transpose(1, 2)  # (B, h·w, C)
        x = torch.cat([prefix.expand(batch, -1, -1), tokens], dim=1)
        maps = []
        for i, block in enumerate(self.blocks[: indexes[-1] + 1]):
            x = block(x, self.rope_embed(h, w, prefix.shape[1]))
            if i in indexes:
                last = self.finish(x)[:, prefix.shape[1] :]
                maps.append(last.transpose(1, 2).unflatten(2, (h, w)))
        return maps


def init_linear_layers(model: nn.Module) -> None:
    """Weights from a normal distribution of deviation 0.02, biases zero; as ViT and DINO start."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
