"""For deployed encoders: the 1×1 convolution behind a concatenation, computed map by map.

A 1×1 convolution of two concatenated maps is the sum of one for each, W [a; b] = W_a a + W_b b.
Apart they are cheaper, with equal answers up to rounding:

- a coarse map goes through its part before it is enlarged, at a quarter of the pixels
  (repeating pixels and a 1×1 convolution commute);
- a 1×1 convolution before it, without activation, becomes one with it;
- neither the concatenated nor the enlarged input is ever written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct, convolution_of
from detrkit.models.encoders.blocks import CSPLayer, RepNCSPELAN
from detrkit.models.encoders.hybrid_encoder import HybridEncoder
from detrkit.models.encoders.joining import Concatenated, enlarge


class Apart(nn.Module):
    """In place of a join: leaves both maps to a `ConvOfPair`."""

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return maps


class NotYet(nn.Module):
    """In place of an enlargement: `ConvOfPair` enlarges what it makes of the coarse map."""

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        return coarse


class ConvOfPair(nn.Module):
    """act(W [enlarged(a); b] + bias) from a and b apart.

    Args:
        moved: 1×1 convolution of a, which comes from a neighbouring scale.
        own: 1×1 convolution of b.
        act: activation.
    """

    def __init__(self, moved: nn.Conv2d, own: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.moved, self.own, self.act = moved, own, act

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[(B, C, h, w), (B, D, H, W)], (h, w) being (H, W) or half of it -> (B, out, H, W)."""
        own = self.own(maps[1])
        out: Tensor = self.act(own.add_(enlarge(self.moved(maps[0]), own)))
        return out


def take_joins_apart(encoder: HybridEncoder) -> None:
    """Replaces the joins of a deployed encoder, where all of them and all blocks are plain ones.

    Args:
        encoder: with its batch norms folded.
    """
    fpn, pan = list(encoder.fpn_blocks), list(encoder.pan_blocks)
    plain = (
        all(type(join) is Concatenated for join in (*encoder.joins_coarse, *encoder.joins_down))
        and all(isinstance(block, RepNCSPELAN | CSPLayer) for block in (*fpn, *pan))
        and all(step.module is None for step in encoder.enlarge)
    )
    if not plain:
        return
    steps = len(fpn)
    laterals = [_lone_convolution(lateral) for lateral in encoder.lateral_convs]
    for i, block in enumerate(fpn):  # from the coarsest map on
        level = steps - 1 - i
        projection = None
        if level not in encoder.use_encoder_idx:
            projection = _lone_convolution(encoder.input_proj[level])
        if projection is not None and not _cheaper_merged(projection, block):
            projection = None
        _take_apart(block, (laterals[i], projection))
        if projection is not None:
            encoder.input_proj[level] = nn.Identity()
        _take_apart(pan[level], (None, laterals[i]))
        if laterals[i] is not None:
            encoder.lateral_convs[i] = nn.Identity()
        encoder.joins_coarse[i], encoder.joins_down[i] = Apart(), Apart()
        encoder.enlarge[i] = NotYet()


def _entries(block: nn.Module) -> dict[str, ConvNormAct]:
    """The convolutions of a fusion block that read its input, by name."""
    names = ("cv1",) if isinstance(block, RepNCSPELAN) else ("conv1", "conv2")
    return {name: getattr(block, name) for name in names if hasattr(block, name)}


def _lone_convolution(module: nn.Module) -> nn.Conv2d | None:
    """The convolution that a module consists of; None: there is more to it, or less."""
    leaves = [m for m in module.modules() if not len(m._modules) and type(m) is not nn.Identity]
    conv = leaves[0] if len(leaves) == 1 else None
    return conv if isinstance(conv, nn.Conv2d) else None


def _cheaper_merged(before: nn.Conv2d, block: nn.Module) -> bool:
    """Whether the block's convolutions straight from the input of `before` need fewer products."""
    given, width = before.in_channels, before.out_channels
    out = sum(entry.conv_bn_fused.out_channels for entry in _entries(block).values())
    return given * out < given * width + width * out


def _take_apart(block: nn.Module, before: tuple[nn.Conv2d | None, nn.Conv2d | None]) -> None:
    for name, entry in _entries(block).items():
        block._modules[name] = _conv_of_pair(entry, before)


def _conv_of_pair(
    entry: ConvNormAct, before: tuple[nn.Conv2d | None, nn.Conv2d | None]
) -> ConvOfPair:
    """A 1×1 convolution over two maps of equal width, and the convolutions that made these."""
    conv = entry.conv_bn_fused
    assert conv.bias is not None
    kernels, bias = [], conv.bias
    for kernel, first in zip(conv.weight.flatten(1).chunk(2, dim=1), before, strict=True):
        if first is not None:
            if first.bias is not None:
                bias = bias + kernel @ first.bias
            kernel = kernel @ first.weight.flatten(1)
        kernels.append(kernel[:, :, None, None])
    return ConvOfPair(
        convolution_of(kernels[0], torch.zeros_like(bias)),
        convolution_of(kernels[1], bias),
        entry.act,
    )
