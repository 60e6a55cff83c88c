"""HGNetv2, the convolutional backbone of PaddlePaddle that D-FINE and DEIM use.

PP-HGNetV2 (PaddleClas); the learnable affine block is from PP-LCNetV3. A stage halves the
resolution (but for the first) and runs blocks; a block runs a chain of convolutions and squeezes
all their outputs, concatenated (one-shot aggregation, VoVNet, arXiv:1904.09730).

    images (B, 3, H, W) -> stem H/4 -> stages H/4, H/8, H/16, H/32
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import ConfigError, did_you_mean
from detrkit.models.layers.affine import LearnableAffine
from detrkit.models.layers.norm import freeze_batch_norm
from detrkit.registry import MODULES

_WEIGHTS = "https://github.com/Peterande/storage/releases/download/dfinev1.0/"


@dataclass(frozen=True)
class Stage:
    """Widths and depth of one stage.

    Attributes:
        mid_channels: width of the convolutions in a block.
        out_channels: width of a block's result.
        blocks: number of blocks.
        layers: convolutions in a block's chain.
        light: whether a convolution is 1×1 followed by depthwise, instead of dense.
        kernel_size: side of the (depthwise) convolution.
        downsample: whether the stage starts by halving the resolution.
    """

    mid_channels: int
    out_channels: int
    blocks: int
    layers: int
    light: bool = False
    kernel_size: int = 3
    downsample: bool = True


@dataclass(frozen=True)
class Architecture:
    """One size of HGNetv2.

    Attributes:
        stem: width inside and after the stem.
        stages: the four stages.
        file: name of the weights pretrained on ImageNet, or None.
    """

    stem: tuple[int, int]
    stages: tuple[Stage, ...]
    file: str | None = None


def _architecture(
    size: str,
    stem: tuple[int, int],
    mid: Sequence[int],
    out: Sequence[int],
    blocks: Sequence[int],
    layers: int,
) -> Architecture:
    """Four stages; the first two dense 3×3 and the last two light 5×5."""
    return Architecture(
        stem,
        tuple(
            Stage(mid[i], out[i], blocks[i], layers, i > 1, 5 if i > 1 else 3, i > 0)
            for i in range(4)
        ),
        f"PPHGNetV2_{size}_stage1.pth",
    )


#: name -> architecture
ARCHITECTURES: dict[str, Architecture] = {
    size: _architecture(size, stem, mid, out, blocks, layers)
    for size, stem, mid, out, blocks, layers in (
        ("B0", (16, 16), (16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1), 3),
        ("B1", (24, 32), (32, 48, 96, 192), (64, 256, 512, 1024), (1, 1, 2, 1), 3),
        ("B2", (24, 32), (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1), 4),
        ("B3", (24, 32), (32, 64, 128, 256), (128, 512, 1024, 2048), (1, 1, 3, 1), 5),
        ("B4", (32, 48), (48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1), 6),
        ("B5", (32, 64), (64, 128, 256, 512), (128, 512, 1024, 2048), (1, 2, 5, 2), 6),
        ("B6", (48, 96), (96, 192, 384, 768), (192, 512, 1024, 2048), (2, 3, 6, 3), 6),
    )
}


class ConvBNAct(nn.Module):
    """Convolution, batch norm, ReLU, affine. (B, in, H, W) -> (B, out, H', W').

    Args:
        in_channels, out_channels: widths.
        kernel_size, stride, groups: of the convolution, padded by (kernel_size - 1) // 2.
        use_act: whether a ReLU follows.
        use_lab: whether a learnable affine block follows the ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        use_act: bool = True,
        use_lab: bool = False,
    ) -> None:
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)
        # in place: batch norm's gradient needs its input, not its output
        self.act = nn.ReLU(inplace=True) if use_act else nn.Identity()
        self.lab = LearnableAffine() if use_act and use_lab else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.lab(self.act(self.bn(self.conv(x))))


class LightConvBNAct(nn.Module):
    """A 1×1 convolution, then a depthwise one with ReLU. (B, in, H, W) -> (B, out, H, W)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, use_lab: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = ConvBNAct(in_channels, out_channels, 1, use_act=False)
        self.conv2 = ConvBNAct(
            out_channels, out_channels, kernel_size, groups=out_channels, use_lab=use_lab
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Stem(nn.Module):
    """Quarters the resolution. (B, 3, H, W) -> (B, out, ceil(H/4), ceil(W/4)).

    The 2×2 kernels have no padding of their own: a zero row and column are added below and right.
    """

    def __init__(self, mid_channels: int, out_channels: int, use_lab: bool = False) -> None:
        super().__init__()
        mid = mid_channels
        self.stem1 = ConvBNAct(3, mid, 3, stride=2, use_lab=use_lab)
        self.stem2a = ConvBNAct(mid, mid // 2, 2, use_lab=use_lab)
        self.stem2b = ConvBNAct(mid // 2, mid, 2, use_lab=use_lab)
        self.stem3 = ConvBNAct(2 * mid, mid, 3, stride=2, use_lab=use_lab)
        self.stem4 = ConvBNAct(mid, out_channels, 1, use_lab=use_lab)
        self.pool = nn.MaxPool2d(kernel_size=2, stride=1, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.stem1(x), (0, 1, 0, 1))
        deep = self.stem2b(F.pad(self.stem2a(x), (0, 1, 0, 1)))
        return self.stem4(self.stem3(torch.cat([self.pool(x), deep], dim=1)))


class Block(nn.Module):
    """A chain of convolutions, all outputs concatenated and squeezed. Same resolution.

    Args:
        in_channels: width of the input.
        stage: widths and kind of the convolutions.
        residual: whether the input is added to the result.
        use_lab: whether activations are followed by a learnable affine block.
    """

    def __init__(self, in_channels: int, stage: Stage, residual: bool, use_lab: bool) -> None:
        super().__init__()
        mid, out = stage.mid_channels, stage.out_channels
        convolution = LightConvBNAct if stage.light else ConvBNAct
        widths = [in_channels] + [mid] * stage.layers
        self.layers = nn.ModuleList(
            convolution(a, b, stage.kernel_size, use_lab=use_lab) for a, b in pairwise(widths)
        )
        self.aggregation = nn.Sequential(
            ConvBNAct(sum(widths), out // 2, 1, use_lab=use_lab),
            ConvBNAct(out // 2, out, 1, use_lab=use_lab),
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        out = self.aggregation(torch.cat(outputs, dim=1))
        return out + x if self.residual else out


class HGStage(nn.Module):
    """Depthwise downsampling (unless switched off) and blocks; all but the first are residual."""

    def __init__(self, in_channels: int, stage: Stage, use_lab: bool) -> None:
        super().__init__()
        self.downsample = (
            ConvBNAct(in_channels, in_channels, 3, stride=2, groups=in_channels, use_act=False)
            if stage.downsample
            else nn.Identity()
        )
        self.blocks = nn.Sequential(
            *(
                Block(in_channels if i == 0 else stage.out_channels, stage, i > 0, use_lab)
                for i in range(stage.blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


@MODULES.register(paper="PP-HGNetV2, PaddleClas; as in D-FINE, arXiv:2410.13842")
class HGNetv2(nn.Module):
    """HGNetv2-B0 to B6. images (B, 3, H, W) -> one map per entry of `return_idx`.

    The constructor never downloads: `pretrained`, `pretrained_url` and `local_model_dir` say
    what the trainer shall load.

    Args:
        name: "B0" … "B6".
        use_lab: learnable affine blocks behind activations (B0–B2 of D-FINE).
        return_idx: stages whose maps are returned; stage i has stride 4 · 2^i.
        freeze_stem_only: with `freeze_at` >= 0, whether only the stem is frozen.
        freeze_at: freezes the stem and, unless `freeze_stem_only`, the stages up to this one;
            negative freezes nothing.
        freeze_norm: batch norms become constants.
        pretrained: whether training from scratch starts with ImageNet weights; or their file.
        local_model_dir: where these weights are kept.

    Attributes:
        out_channels, out_strides: of the returned maps.
        pretrained_url: where the ImageNet weights are, or None.

    Raises:
        ConfigError: there is no such size or stage.
    """

    def __init__(
        self,
        name: str,
        use_lab: bool = False,
        return_idx: Sequence[int] = (1, 2, 3),
        freeze_stem_only: bool = True,
        freeze_at: int = 0,
        freeze_norm: bool = True,
        pretrained: bool | str = True,
        local_model_dir: str = "weight/hgnetv2/",
    ) -> None:
        super().__init__()
        if name not in ARCHITECTURES:
            raise ConfigError(
                f"HGNetv2.name: no size `{name}`{did_you_mean(str(name), ARCHITECTURES)}",
                hint=f"sizes: {', '.join(ARCHITECTURES)}",
            )
        architecture = ARCHITECTURES[name]
        stages = architecture.stages
        if not return_idx or not all(0 <= i < len(stages) for i in return_idx):
            raise ConfigError(
                f"HGNetv2.return_idx: {list(return_idx)} must name stages 0 to {len(stages) - 1}"
            )
        self.name = name
        self.return_idx = tuple(return_idx)
        self.out_channels = [stages[i].out_channels for i in return_idx]
        self.out_strides = [4 * 2**i for i in return_idx]
        self.pretrained = pretrained
        self.pretrained_url = architecture.file and _WEIGHTS + architecture.file
        self.local_model_dir = local_model_dir

        self.stem = Stem(*architecture.stem, use_lab=use_lab)
        widths = [architecture.stem[1], *(stage.out_channels for stage in stages[:-1])]
        self.stages = nn.ModuleList(
            HGStage(width, stage, use_lab) for width, stage in zip(widths, stages, strict=True)
        )
        if freeze_at >= 0:
            self.stem.requires_grad_(False)
            if not freeze_stem_only:
                self.stages[: freeze_at + 1].requires_grad_(False)
        if freeze_norm:
            freeze_batch_norm(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, H, W) -> maps (B, C_i, ceil(H/s_i), ceil(W/s_i)), finest first."""
        x = self.stem(images)
        maps = []
        for i in range(max(self.return_idx) + 1):  # nobody needs what comes after
            x = self.stages[i](x)
            if i in self.return_idx:
                maps.append(x)
        return maps
