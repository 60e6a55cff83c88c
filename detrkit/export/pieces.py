"""For exported encoders: blocks that neither halve a map nor stack maps before a convolution.

Both are copies to a runtime, and ONNX Runtime leaves the blocked layout of its convolutions for a
split. Rows and columns of the kernels are taken apart instead: a convolution with half of the
filters for each half of its result, and for stacked maps the sum of a convolution of each, which
runtimes compute in place. Answers are equal up to rounding. Within PyTorch nothing is gained.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct, convolution_of
from detrkit.models.encoders.blocks import CSPLayer, RepNCSPELAN
from detrkit.models.encoders.factored import ConvOfPair


class SumOfConvs(nn.Module):
    """act(conv(torch.cat(maps, 1))) from the maps.

    Args:
        conv: convolution over all of them.
        widths: channels of each map.
        act: activation.
    """

    def __init__(self, conv: nn.Conv2d, widths: Sequence[int], act: nn.Module) -> None:
        super().__init__()
        assert conv.bias is not None
        edges = [0, *accumulate(widths)]
        biases = [conv.bias, *[torch.zeros_like(conv.bias)] * (len(widths) - 1)]
        self.convs = nn.ModuleList(
            convolution_of(conv.weight[:, start:end], bias)
            for (start, end), bias in zip(pairwise(edges), biases, strict=True)
        )
        self.act = act

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[(B, width, H, W), …] -> (B, out, H, W)."""
        parts = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        out: Tensor = self.act(sum(parts[1:], parts[0]))
        return out


class ElanInPieces(nn.Module):
    """A deployed `RepNCSPELAN` without its split and its concatenation.

    Args:
        block: whose branches it takes over.
    """

    def __init__(self, block: RepNCSPELAN) -> None:
        super().__init__()
        conv = block.cv4.conv_bn_fused
        half = _width(block.cv1) // 2
        branch = (conv.in_channels - 2 * half) // 2
        self.kept, self.passed = _halves(block.cv1)
        self.cv2, self.cv3 = block.cv2, block.cv3
        self.cv4 = SumOfConvs(conv, (half, half, branch, branch), block.cv4.act)

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        """What the block takes -> (B, out, H, W)."""
        passed = self.passed(x)
        first = self.cv2(passed)
        out: Tensor = self.cv4([self.kept(x), passed, first, self.cv3(first)])
        return out


def in_pieces(encoder: nn.Module) -> None:
    """Replaces what splits and concatenates in an encoder's blocks.

    Args:
        encoder: with its batch norms folded.
    """
    for module in list(encoder.modules()):
        if isinstance(module, CSPLayer) and module.split:
            short, main = _halves(module.conv1)
            module._modules |= {"conv1": main, "conv2": short}
            module.split = False
        for name, child in list(module.named_children()):
            if isinstance(child, RepNCSPELAN):
                module._modules[name] = ElanInPieces(child)


def _width(entry: ConvNormAct | ConvOfPair) -> int:
    conv = entry.own if isinstance(entry, ConvOfPair) else entry.conv_bn_fused
    return conv.out_channels


def _halves(entry: ConvNormAct | ConvOfPair) -> tuple[nn.Module, nn.Module]:
    """The first and the second half of what a convolution with activation returns."""
    half = _width(entry) // 2
    first, second = (_rows(entry, rows) for rows in (slice(0, half), slice(half, 2 * half)))
    return first, second


def _rows(entry: ConvNormAct | ConvOfPair, rows: slice) -> nn.Module:
    if isinstance(entry, ConvOfPair):
        return ConvOfPair(_filters(entry.moved, rows), _filters(entry.own, rows), entry.act)
    return nn.Sequential(_filters(entry.conv_bn_fused, rows), entry.act)


def _filters(conv: nn.Conv2d, rows: slice) -> nn.Conv2d:
    assert conv.bias is not None
    return convolution_of(conv.weight[rows], conv.bias[rows])
