"""Building blocks of the hybrid encoders: attention inside a scale, convolutions across scales."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn

from detrkit.layers.activations import get_activation
from detrkit.layers.attention import SelfAttention
from detrkit.layers.conv import ConvNormAct, RepVGGBlock


class TransformerEncoderLayer(nn.Module):
    """Self-attention and a feed-forward net, each with a shortcut and a norm behind it.

    Args:
        d_model: C.
        nhead: attention heads.
        dim_feedforward: width of the feed-forward net.
        dropout: in training.
        activation: of the feed-forward net.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.self_attn = SelfAttention(d_model, nhead, dropout)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.activation = get_activation(activation)

    def forward(self, x: Tensor, position: Tensor | None = None) -> Tensor:
        """(B, N, C) with position (1, N, C) -> (B, N, C)."""
        x = self.norm1(x + self.dropout1(self.self_attn(x, position)))
        hidden = self.dropout(self.activation(self.linear1(x)))
        return self.norm2(x + self.dropout2(self.linear2(hidden)))


class TransformerEncoder(nn.Module):
    """Copies of one layer, in a row; they start with equal weights, as in DETR."""

    def __init__(self, layer: nn.Module, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))

    def forward(self, x: Tensor, position: Tensor | None = None) -> Tensor:
        """(B, N, C) with position (1, N, C) -> (B, N, C)."""
        for layer in self.layers:
            x = layer(x, position)
        return x


class CSPLayer(nn.Module):
    """RepVGG blocks beside a 1×1 convolution; the branches are summed (CSPNet, arXiv:1911.11929).

    Args:
        in_channels, out_channels: widths.
        num_blocks: RepVGG blocks in the main branch.
        expansion: width of the branches relative to `out_channels`.
        act: activation.
        split: one convolution makes both branches (YOLO's RepC3, the authors' `csp2`); otherwise
            each has its own (`csp`).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 3,
        expansion: float = 1.0,
        act: str = "silu",
        split: bool = False,
    ) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self.split = split
        self.conv1 = ConvNormAct(in_channels, 2 * hidden if split else hidden, 1, act=act)
        if not split:
            self.conv2 = ConvNormAct(in_channels, hidden, 1, act=act)
        self.bottlenecks = nn.Sequential(
            *(RepVGGBlock(hidden, hidden, act=act) for _ in range(num_blocks))
        )
        self.conv3 = (
            nn.Identity()
            if hidden == out_channels
            else ConvNormAct(hidden, out_channels, 1, act=act)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        if self.split:
            short, main = self.conv1(x).chunk(2, dim=1)
        else:
            main, short = self.conv1(x), self.conv2(x)
        return self.conv3(self.bottlenecks(main) + short)


class RepNCSPELAN(nn.Module):
    """Generalised ELAN of YOLOv9 (arXiv:2402.13616) with RepVGG blocks.

    The authors' `RepNCSPELAN4` (D-FINE) and, without the 3×3 convolutions, `RepNCSPELAN5`
    (DEIMv2).

    Args:
        in_channels, out_channels: widths.
        split_channels: width that is split in two halves.
        branch_channels: width of the two branches in a row.
        num_blocks: RepVGG blocks in a branch.
        act: activation.
        split: which CSP layer, see `CSPLayer`.
        smooth: whether a 3×3 convolution follows the CSP layer of a branch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        split_channels: int,
        branch_channels: int,
        num_blocks: int = 3,
        act: str = "silu",
        split: bool = False,
        smooth: bool = True,
    ) -> None:
        super().__init__()

        def branch(width: int) -> nn.Sequential:
            layers: list[nn.Module] = [
                CSPLayer(width, branch_channels, num_blocks, act=act, split=split)
            ]
            if smooth:
                layers.append(ConvNormAct(branch_channels, branch_channels, 3, act=act))
            return nn.Sequential(*layers)

        self.cv1 = ConvNormAct(in_channels, split_channels, 1, act=act)
        self.cv2 = branch(split_channels // 2)
        self.cv3 = branch(branch_channels)
        self.cv4 = ConvNormAct(split_channels + 2 * branch_channels, out_channels, 1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        split = self.cv1(x)
        first = self.cv2(split.chunk(2, dim=1)[1])
        return self.cv4(torch.cat([split, first, self.cv3(first)], dim=1))


class SCDown(nn.Module):
    """Downsampling in two steps, channels then space (YOLOv10, arXiv:2405.14458, section 3.2).

    (B, in, H, W) -> (B, out, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 2
    ) -> None:
        super().__init__()
        self.cv1 = ConvNormAct(in_channels, out_channels, 1)
        self.cv2 = ConvNormAct(out_channels, out_channels, kernel_size, stride, groups=out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv2(self.cv1(x))


def projection(in_channels: int, out_channels: int, named: bool = True) -> nn.Sequential:
    """A 1×1 convolution and a norm, before maps of several widths can be fused.

    Args:
        in_channels, out_channels: widths.
        named: whether the layers are called `conv` and `norm`, or counted.
    """
    layers = [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
    names = ("conv", "norm") if named else ("0", "1")
    return nn.Sequential(OrderedDict(zip(names, layers, strict=True)))
