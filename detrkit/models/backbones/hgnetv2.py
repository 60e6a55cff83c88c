"""HGNetv2, a convolutional backbone of PaddlePaddle that all four families use.

PP-HGNetV2 (PaddleClas); the learnable affine block is from PP-LCNetV3. A stage halves the
resolution (but for the first) and runs blocks; a block runs a chain of convolutions and squeezes
all their outputs, concatenated (one-shot aggregation, VoVNet, arXiv:1904.09730).

D-FINE and its successors call the sizes B0 to B6, DEIMv2 adds three smaller ones. RT-DETRv2 calls
B4, B5 and B6 L, X and H: the same networks, but its weights name some layers differently and its
constructor starts them otherwise.

    images (B, 3, H, W) -> stem H/4 -> stages H/4, H/8, H/16, H/32
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import ConfigError, did_you_mean
from detrkit.layers.activations import get_activation
from detrkit.layers.affine import LearnableAffine, fold_rectified
from detrkit.layers.conv import fused_convolution
from detrkit.layers.norm import FrozenBatchNorm2d, freeze_batch_norm
from detrkit.models.backbones.chosen import modules_after, stage_blocks
from detrkit.modules.part import Part, build_part
from detrkit.registry import MODULES

_DFINE_WEIGHTS = "https://github.com/Peterande/storage/releases/download/dfinev1.0/"
_RTDETR_WEIGHTS = "https://github.com/lyuwenyu/storage/releases/download/v0.1/"


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
        stages: three or four stages.
        url: weights pretrained on ImageNet.
        partial: whether they are a larger size's, of which only what fits is loaded.
        rtdetr: whether names, start values and defaults are RT-DETRv2's.
    """

    stem: tuple[int, int]
    stages: tuple[Stage, ...]
    url: str
    partial: bool = False
    rtdetr: bool = False


def _architectures() -> dict[str, Architecture]:
    """Every size. The first two stages are dense 3×3, those after them light, 5×5 but for Atto."""
    found = {}
    for name, stem, mid, out, blocks, layers in (
        ("Atto", (16, 16), (16, 32, 64), (64, 256, 256), (1, 1, 1), 3),
        ("Femto", (16, 16), (16, 32, 64), (64, 256, 512), (1, 1, 1), 3),
        ("Pico", (16, 16), (16, 32, 64), (64, 256, 512), (1, 1, 2), 3),
        ("B0", (16, 16), (16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1), 3),
        ("B1", (24, 32), (32, 48, 96, 192), (64, 256, 512, 1024), (1, 1, 2, 1), 3),
        ("B2", (24, 32), (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1), 4),
        ("B3", (24, 32), (32, 64, 128, 256), (128, 512, 1024, 2048), (1, 1, 3, 1), 5),
        ("B4", (32, 48), (48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1), 6),
        ("B5", (32, 64), (64, 128, 256, 512), (128, 512, 1024, 2048), (1, 2, 5, 2), 6),
        ("B6", (48, 96), (96, 192, 384, 768), (192, 512, 1024, 2048), (2, 3, 6, 3), 6),
    ):
        side = 3 if name == "Atto" else 5
        stages = tuple(
            Stage(mid[i], out[i], blocks[i], layers, i > 1, side if i > 1 else 3, i > 0)
            for i in range(len(mid))
        )
        partial = len(stages) == 3  # these start from what fits of B0
        file = f"PPHGNetV2_{'B0' if partial else name}_stage1.pth"
        found[name] = Architecture(stem, stages, _DFINE_WEIGHTS + file, partial)
    for name, same in (("L", "B4"), ("X", "B5"), ("H", "B6")):
        url = f"{_RTDETR_WEIGHTS}PPHGNetV2_{name}_ssld_pretrained_from_paddle.pth"
        found[name] = replace(found[same], url=url, rtdetr=True)
    return found


#: name -> architecture
ARCHITECTURES: dict[str, Architecture] = _architectures()


class ConvBNAct(nn.Module):
    """Convolution, batch norm, activation, affine. (B, in, H, W) -> (B, out, H', W').

    Args:
        in_channels, out_channels: widths.
        kernel_size, stride, groups: of the convolution, padded by (kernel_size - 1) // 2.
        act: activation, or None.
        use_lab: whether a learnable affine block follows the activation.
    """

    in_a_row = ("conv", "bn", "act")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        act: str | None = "relu",
        use_lab: bool = False,
    ) -> None:
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.conv: nn.Module = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        )
        self.bn: nn.Module = nn.BatchNorm2d(out_channels)
        # in place: batch norm's gradient needs its input, not its output
        self.act = get_activation(act, inplace=True)
        self.lab = LearnableAffine() if act is not None and use_lab else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.lab(self.act(self.bn(self.conv(x))))

    def convert_to_deploy(self) -> None:
        """Folds the norm, and an affine block behind ReLU, into the convolution."""
        conv = self.conv[-1] if isinstance(self.conv, nn.Sequential) else self.conv
        if isinstance(conv, nn.Conv2d) and isinstance(self.bn, nn.BatchNorm2d | FrozenBatchNorm2d):
            self.conv, self.bn = fused_convolution(conv, self.bn), nn.Identity()
            if isinstance(self.lab, LearnableAffine) and type(self.act) is nn.ReLU:
                self.act, self.lab = fold_rectified(self.conv, self.lab), nn.Identity()


class LightConvBNAct(nn.Module):
    """A 1×1 convolution, then a depthwise one with `act`. (B, in, H, W) -> (B, out, H, W)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        act: str | None = "relu",
        use_lab: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = ConvBNAct(in_channels, out_channels, 1, act=None)
        self.conv2 = ConvBNAct(
            out_channels, out_channels, kernel_size, groups=out_channels, act=act, use_lab=use_lab
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


@dataclass(frozen=True)
class Style:
    """What all blocks of one network share.

    Attributes:
        act: activation of the convolutions.
        use_lab: whether activations are followed by a learnable affine block.
        rtdetr: whether layers have RT-DETRv2's names.
    """

    act: str = "relu"
    use_lab: bool = False
    rtdetr: bool = False

    def conv(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1
    ) -> ConvBNAct:
        """A dense convolution."""
        return ConvBNAct(
            in_channels, out_channels, kernel_size, stride, act=self.act, use_lab=self.use_lab
        )

    def light_conv(self, in_channels: int, out_channels: int, kernel_size: int) -> LightConvBNAct:
        """A light convolution."""
        return LightConvBNAct(in_channels, out_channels, kernel_size, self.act, self.use_lab)


class Stem(nn.Module):
    """Quarters the resolution. (B, in, H, W) -> (B, out, ceil(H/4), ceil(W/4)).

    The 2×2 kernels have no padding of their own: a zero row and column are added below and right.

    Attributes:
        pool_border: what is added for the maximum instead of zeros, see `detrkit.export.graph`.
    """

    pool_border = 0.0

    def __init__(
        self, mid_channels: int, out_channels: int, style: Style, in_channels: int = 3
    ) -> None:
        super().__init__()
        mid = mid_channels
        self.stem1 = style.conv(in_channels, mid, 3, stride=2)
        self.stem2a = style.conv(mid, mid // 2, 2)
        self.stem2b = style.conv(mid // 2, mid, 2)
        self.stem3 = style.conv(2 * mid, mid, 3, stride=2)
        self.stem4 = style.conv(mid, out_channels, 1)
        if style.rtdetr:  # there, each 2×2 kernel has a padding layer before it
            for layer in (self.stem2a, self.stem2b):
                layer.conv = nn.Sequential(nn.Identity(), layer.conv)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem1(x)
        padded = F.pad(x, (0, 1, 0, 1))
        deep = self.stem2b(F.pad(self.stem2a(padded), (0, 1, 0, 1)))
        if self.pool_border:
            padded = F.pad(x, (0, 1, 0, 1), value=self.pool_border)
        return self.stem4(self.stem3(torch.cat([_max_pool(padded), deep], dim=1)))


def _max_pool(x: Tensor) -> Tensor:
    """Maximum of 2×2 neighbours. (B, C, H, W) -> (B, C, H - 1, W - 1)."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.max_pool2d(x, kernel_size=2, stride=1)
    rows = torch.maximum(x[:, :, :-1], x[:, :, 1:])  # six times faster with the channels last
    return torch.maximum(rows[..., :-1], rows[..., 1:])


class Block(nn.Module):
    """A chain of convolutions, all outputs concatenated and squeezed. Same resolution.

    Args:
        in_channels: width of the input.
        stage: widths and kind of the convolutions.
        residual: whether the input is added to the result.
        style: activation and names.
    """

    def __init__(self, in_channels: int, stage: Stage, residual: bool, style: Style) -> None:
        super().__init__()
        mid, out = stage.mid_channels, stage.out_channels
        convolution = style.light_conv if stage.light else style.conv
        widths = [in_channels] + [mid] * stage.layers
        self.layers = nn.ModuleList(
            convolution(a, b, stage.kernel_size) for a, b in pairwise(widths)
        )
        squeeze, excite = style.conv(sum(widths), out // 2, 1), style.conv(out // 2, out, 1)
        self.rtdetr = style.rtdetr
        if style.rtdetr:
            self.aggregation_squeeze_conv = squeeze
            self.aggregation_excitation_conv = excite
        else:
            self.aggregation = nn.Sequential(squeeze, excite)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        out = torch.cat(outputs, dim=1)
        if self.rtdetr:
            out = self.aggregation_excitation_conv(self.aggregation_squeeze_conv(out))
        else:
            out = self.aggregation(out)
        return out + x if self.residual else out


class HGStage(nn.Module):
    """Depthwise downsampling (unless switched off) and blocks; all but the first are residual."""

    def __init__(self, in_channels: int, stage: Stage, style: Style) -> None:
        super().__init__()
        self.downsample = (
            ConvBNAct(in_channels, in_channels, 3, stride=2, groups=in_channels, act=None)
            if stage.downsample
            else nn.Identity()
        )
        self.blocks = nn.Sequential(
            *(
                Block(in_channels if i == 0 else stage.out_channels, stage, i > 0, style)
                for i in range(stage.blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


@MODULES.register(
    share=("in_channels",),
    parts=("block", "stem", "after"),
    paper="PP-HGNetV2, PaddleClas; as in D-FINE, arXiv:2410.13842",
)
class HGNetv2(nn.Module):
    """HGNetv2. images (B, in, H, W) -> one map per entry of `return_idx`.

    The constructor never downloads: `pretrained`, `pretrained_url` and `local_model_dir` say
    what the trainer shall load.

    Args:
        name: "B0" … "B6"; "Atto", "Femto", "Pico" of DEIMv2; "L", "X", "H" of RT-DETRv2.
        use_lab: learnable affine blocks behind activations (up to B2 in D-FINE and DEIMv2).
        return_idx: stages whose maps are returned; stage i has stride 4 · 2^i. Atto, Femto and
            Pico have three stages, the others four.
        freeze_stem_only: with `freeze_at` >= 0, whether only the stem is frozen. No effect on
            L, X and H.
        freeze_at: freezes the stem and, unless `freeze_stem_only`, the stages up to this one
            (for L, X and H: the stages before this one); negative freezes nothing. None is 0,
            and -1 for L, X and H.
        freeze_norm: batch norms become constants. None is True, and False for L, X and H.
        pretrained: whether training from scratch starts with ImageNet weights; or their file.
            None is True, and False for L, X and H.
        local_model_dir: where these weights are kept.
        act: activation of the convolutions.
        in_channels: of the images. Other than 3, the first convolution trains even where the
            stem is frozen: its weights are new.
        block: for each stage a module in place of its blocks, or None; see `chosen`.
        stem: module in place of the stem, which quarters the sides.
        after: for each stage a module behind it, or None.

    Attributes:
        out_channels, out_strides: of the returned maps.
        pretrained_url: where the ImageNet weights are.
        pretrained_partial: whether these are a larger size's, of which what fits is loaded.

    Raises:
        ConfigError: there is no such size, stage or activation.
    """

    def __init__(
        self,
        name: str,
        use_lab: bool = False,
        return_idx: Sequence[int] = (1, 2, 3),
        freeze_stem_only: bool = True,
        freeze_at: int | None = None,
        freeze_norm: bool | None = None,
        pretrained: bool | str | None = None,
        local_model_dir: str = "weight/hgnetv2/",
        act: str = "relu",
        in_channels: int = 3,
        block: Sequence[Part | None] | None = None,
        stem: Part | None = None,
        after: Sequence[Part | None] | None = None,
    ) -> None:
        super().__init__()
        if name not in ARCHITECTURES:
            raise ConfigError(
                f"HGNetv2.name: no size `{name}`{did_you_mean(str(name), ARCHITECTURES)}",
                hint=f"sizes: {', '.join(ARCHITECTURES)}",
            )
        architecture = ARCHITECTURES[name]
        stages, rtdetr = architecture.stages, architecture.rtdetr
        if not return_idx or not all(0 <= i < len(stages) for i in return_idx):
            raise ConfigError(
                f"HGNetv2.return_idx: {list(return_idx)} must name stages 0 to {len(stages) - 1}"
            )
        if freeze_at is None:
            freeze_at = -1 if rtdetr else 0
        self.name = name
        self.in_channels = in_channels
        self.return_idx = tuple(return_idx)
        self.out_channels = [stages[i].out_channels for i in return_idx]
        self.out_strides = [4 * 2**i for i in return_idx]
        self.pretrained = not rtdetr if pretrained is None else pretrained
        self.pretrained_url = architecture.url
        self.pretrained_partial = architecture.partial
        self.local_model_dir = local_model_dir

        style = Style(act, use_lab, rtdetr)
        self.stem: nn.Module = Stem(*architecture.stem, style, in_channels)
        widths = [architecture.stem[1], *(stage.out_channels for stage in stages[:-1])]
        self.stages = nn.ModuleList(
            HGStage(width, stage, style) for width, stage in zip(widths, stages, strict=True)
        )
        if rtdetr:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)
        if freeze_at >= 0:
            self.stem.requires_grad_(False)
            frozen = freeze_at if rtdetr else 0 if freeze_stem_only else freeze_at + 1
            self.stages[:frozen].requires_grad_(False)
            if in_channels != 3:
                self.stem.stem1.conv.requires_grad_(True)
        if (not rtdetr) if freeze_norm is None else freeze_norm:
            freeze_batch_norm(self)

        counts = [stage.blocks for stage in stages]
        outer = [stage.out_channels for stage in stages]
        for own, blocks in zip(
            self.stages,
            stage_blocks(block, "HGNetv2.block", list(zip(widths, outer, counts, strict=True))),
            strict=True,
        ):
            if blocks is not None:
                own.blocks = blocks
        if stem is not None:
            self.stem = build_part(stem, "HGNetv2.stem", in_channels, widths[0], scale=0.25)
        self.after = modules_after(after, "HGNetv2.after", outer)
        self.pretrained_partial |= block is not None or stem is not None or after is not None

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, in, H, W) -> maps (B, C_i, ceil(H/s_i), ceil(W/s_i)), finest first."""
        x = self.stem(images)
        maps = []
        for i in range(max(self.return_idx) + 1):  # nobody needs what comes after
            x = self.after[i](self.stages[i](x))
            if i in self.return_idx:
                maps.append(x)
        return maps
