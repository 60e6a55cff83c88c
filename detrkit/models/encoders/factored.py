"""For deployed encoders: the 1×1 convolution behind a concatenation, computed map by map.

A 1×1 convolution of two concatenated maps is the sum of one for each, W [a; b] = W_a a + W_b b.
Apart they are cheaper, with equal answers up to rounding:

- a coarse map goes through its part before it is enlarged, at a quarter of the pixels
  (repeating pixels and a 1×1 convolution commute);
- a projection before it, which has no activation, becomes one convolution with it;
- neither the concatenated nor the enlarged input is ever written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.conv import convolution_of
from detrkit.models.encoders.joining import enlarge


class Apart(nn.Module):
    """In place of a join: leaves both maps as they are, for a `ConvOfPair`."""

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return maps


class NotYet(nn.Module):
    """In place of an enlargement: `ConvOfPair` enlarges what it has made of the coarse map."""

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        return coarse


class ConvOfPair(nn.Module):
    """act(W [enlarged(a); b] + bias), computed from a and b apart.

    Args:
        moved: 1×1 convolution of a, which comes from a neighbouring scale.
        own: 1×1 convolution of b.
        act: activation.
    """

    def __init__(self, moved: nn.Conv2d, own: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.moved, self.own, self.act = moved, own, act

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[(B, C, h, w), (B, D, H, W)] with equal or half sides h, w -> (B, out, H, W)."""
        own = self.own(maps[1])
        out: Tensor = self.act(own + enlarge(self.moved(maps[0]), own))
        return out


def conv_of_pair(
    conv: nn.Conv2d, act: nn.Module, before: tuple[nn.Conv2d | None, nn.Conv2d | None]
) -> ConvOfPair:
    """A 1×1 convolution over two concatenated maps of equal width, taken apart.

    Args:
        conv: with bias.
        act: what follows it.
        before: 1×1 convolutions that made the maps and that are to be part of it, or None.
    """
    assert conv.bias is not None
    kernels: list[Tensor] = []
    bias = conv.bias.detach()
    for kernel, first in zip(conv.weight.detach().flatten(1).chunk(2, dim=1), before, strict=True):
        if first is not None:
            if first.bias is not None:
                bias = bias + kernel @ first.bias
            kernel = kernel @ first.weight.flatten(1)
        kernels.append(kernel)
    moved, own = (k[:, :, None, None] for k in kernels)
    return ConvOfPair(convolution_of(moved, torch.zeros_like(bias)), convolution_of(own, bias), act)
