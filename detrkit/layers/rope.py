"""Rotary position embedding of image patches.

RoFormer, arXiv:2104.09864, section 3.2.2, in two dimensions as in DINOv3, arXiv:2508.10104,
section 3.2: the centres of the patches lie in [-1, 1] along each side whatever the image's size,
and half of a head's channel pairs turn with y, the other half with x.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.layers.size_cache import SizeCache


class RotaryEmbedding2d(nn.Module):
    """Cosine and sine by which the queries and keys of each token are turned.

    Args:
        head_dim: c, channels of a head; divisible by four.
        base: the periods go from 1 to just below `base`, in geometric steps.
        rescale: in training the coordinates are multiplied by a factor drawn log-uniformly from
            [1 / rescale, rescale], anew at each call, from torch's generator of the device; None
            leaves them alone.

    Attributes:
        periods: (c / 4,) in the units of the coordinates; part of the state dict.

    Raises:
        ConfigError: `head_dim` is not divisible by four.
    """

    periods: Tensor

    def __init__(self, head_dim: int, base: float = 100.0, rescale: float | None = None) -> None:
        super().__init__()
        if head_dim % 4:
            raise ConfigError(
                f"two-dimensional RoPE needs heads of a multiple of 4 channels, got {head_dim}",
                hint="choose embed_dim and num_heads so that embed_dim / num_heads is one",
            )
        self.rescale = rescale
        exponent = 2 * torch.arange(head_dim // 4, dtype=torch.float32) / (head_dim // 2)
        self.register_buffer("periods", base**exponent)
        self._kept = SizeCache()

    def forward(self, h: int, w: int, prefix: int = 0) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the angles, for `rotate`.

        Args:
            h, w: patches in a column and in a row.
            prefix: tokens before the patches that have no place in the image; they keep still.

        Returns:
            Two (prefix + h·w, 1, c / 2) float32: a head's channels i and i + c / 2 are a pair.
        """
        if self.training and self.rescale is not None:
            limit = math.log(self.rescale)
            drawn = torch.empty(1, device=self.periods.device).uniform_(-limit, limit)
            return self._turns(h, w, prefix, drawn.exp())
        return self._kept.get(
            (h, w, prefix, self.periods.device, self.periods.dtype),
            lambda: self._turns(h, w, prefix, None),
        )

    def _turns(self, h: int, w: int, prefix: int, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        y, x = ((torch.arange(n, device=self.periods.device) + 0.5) / n for n in (h, w))
        centres = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)  # (h, w, 2) in 0–1
        centres = 2.0 * centres.flatten(0, 1) - 1.0
        if scale is not None:
            centres = centres * scale
        angles = (2 * math.pi * centres[:, :, None] / self.periods).flatten(1)  # (h·w, c / 2)
        still = angles.new_zeros(prefix, angles.shape[1])
        angles = torch.cat([still, angles])[:, None]
        return angles.cos(), angles.sin()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._kept = SizeCache()  # other periods, other angles

    def extra_repr(self) -> str:
        return f"head_dim={4 * len(self.periods)}, rescale={self.rescale}"


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair of channels (i, i + c / 2) by its token's angle, in float32.

    Args:
        x: (B, N, M, c), M heads; of any precision.
        cos, sin: (N, 1, c / 2) of `RotaryEmbedding2d`.

    Returns:
        (B, N, M, c) in the precision of `x`.
    """
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    turned = [
        torch.addcmul(first * cos, second, sin, value=-1),
        torch.addcmul(second * cos, first, sin),
    ]
    return torch.cat(turned, dim=-1).to(x.dtype)
