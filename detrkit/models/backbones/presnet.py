"""ResNet in PaddleDetection's form, the backbone of RT-DETR.

Deep Residual Learning, He et al., CVPR 2016, arXiv:1512.03385; variants b to d from Bag of Tricks,
He et al., CVPR 2019, arXiv:1812.01187, section 4.1:

    a   the first 1×1 convolution of a bottleneck strides
    b   its 3×3 convolution strides
    c   b, with three 3×3 convolutions for the 7×7 one of the stem
    d   c, with average pooling before the shortcut's convolution instead of a stride

    images (B, 3, H, W) -> stem H/4 -> stages H/4, H/8, H/16, H/32
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.layers.activations import get_activation
from detrkit.layers.conv import ConvNormAct
from detrkit.layers.norm import freeze_batch_norm
from detrkit.models.backbones.chosen import modules_after, stage_blocks
from detrkit.modules.part import Part, build_part
from detrkit.registry import MODULES

_WEIGHTS = "https://github.com/lyuwenyu/storage/releases/download/v0.1/"
#: depth -> blocks in each stage, name of the ImageNet weights
DEPTHS: dict[int, tuple[tuple[int, ...], str]] = {
    18: ((2, 2, 2, 2), "ResNet18_vd_pretrained_from_paddle.pth"),
    34: ((3, 4, 6, 3), "ResNet34_vd_pretrained_from_paddle.pth"),
    50: ((3, 4, 6, 3), "ResNet50_vd_ssld_v2_pretrained_from_paddle.pth"),
    101: ((3, 4, 23, 3), "ResNet101_vd_ssld_pretrained_from_paddle.pth"),
}
#: Width of a stage's 3×3 convolutions.
_WIDTHS = (64, 128, 256, 512)


def _conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, act: str | None = None
) -> ConvNormAct:
    # in place: batch norm's gradient needs its input, not its output
    activation = get_activation(act, inplace=True)
    return ConvNormAct(in_channels, out_channels, kernel_size, stride, act=activation)


def _shortcut(in_channels: int, out_channels: int, stride: int, variant: str) -> nn.Module:
    if variant == "d" and stride == 2:
        return nn.Sequential(
            OrderedDict(
                pool=nn.AvgPool2d(2, 2, 0, ceil_mode=True),
                conv=_conv(in_channels, out_channels, 1),
            )
        )
    return _conv(in_channels, out_channels, 1, stride)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut. (B, in, H, W) -> (B, width, H', W').

    Args:
        in_channels, width: widths of input and output.
        stride: of the first convolution.
        project: whether the shortcut is a convolution; otherwise the input itself.
        act: activation.
        variant: "a" to "d".
    """

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, project: bool, act: str, variant: str
    ) -> None:
        super().__init__()
        if project:
            self.short = _shortcut(in_channels, width, stride, variant)
        self.project = project
        self.branch2a = _conv(in_channels, width, 3, stride, act)
        self.branch2b = _conv(width, width, 3)
        self.act = get_activation(act, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        short = self.short(x) if self.project else x
        return self.act(self.branch2b(self.branch2a(x)) + short)


class BottleNeck(nn.Module):
    """1×1, 3×3, 1×1 and a shortcut. (B, in, H, W) -> (B, 4 · width, H', W').

    Args:
        in_channels: width of the input.
        width: of the 3×3 convolution.
        stride: of the 3×3 convolution, in variant "a" of the first one.
        project: whether the shortcut is a convolution; otherwise the input itself.
        act: activation.
        variant: "a" to "d".
    """

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, project: bool, act: str, variant: str
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if variant == "a" else (1, stride)
        self.branch2a = _conv(in_channels, width, 1, first, act)
        self.branch2b = _conv(width, width, 3, second, act)
        self.branch2c = _conv(width, width * self.expansion, 1)
        if project:
            self.short = _shortcut(in_channels, width * self.expansion, stride, variant)
        self.project = project
        self.act = get_activation(act, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        short = self.short(x) if self.project else x
        return self.act(self.branch2c(self.branch2b(self.branch2a(x))) + short)


class Blocks(nn.Module):
    """One stage: the first block may stride and projects its shortcut."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@MODULES.register(
    share=("in_channels",),
    parts=("block", "stem", "after"),
    paper="arXiv:1512.03385, arXiv:1812.01187; as in RT-DETR, arXiv:2304.08069",
)
class PResNet(nn.Module):
    """ResNet 18, 34, 50 or 101. images (B, in, H, W) -> one map per entry of `return_idx`.

    The constructor never downloads: `pretrained`, `pretrained_url` and `local_model_dir` say
    what the trainer shall load.

    Args:
        depth: 18, 34, 50 or 101.
        variant: "a" to "d", see above; ImageNet weights are of "d".
        num_stages: how many of the four stages are built.
        return_idx: stages whose maps are returned; stage i has stride 4 · 2^i.
        act: activation.
        freeze_at: freezes the stem and the first `freeze_at` stages; negative freezes nothing.
        freeze_norm: batch norms become constants.
        pretrained: whether training from scratch starts with ImageNet weights; or their file or
            address.
        local_model_dir: where these weights are kept.
        in_channels: of the images. Other than 3, the first convolution trains even where the
            stem is frozen: its weights are new.
        block: for each stage a module in place of its blocks, or None; see `chosen`. A 3×3
            convolution of stride 2 stands before those of the stages 1 to 3.
        stem: module in place of the stem and its pool, which quarters the sides.
        after: for each stage a module behind it, or None.

    Attributes:
        out_channels, out_strides: of the returned maps.
        pretrained_url: where the ImageNet weights are, or None.
        pretrained_partial: whether of these only what fits is loaded.

    Raises:
        ConfigError: there is no such depth, variant, stage or activation.
    """

    def __init__(
        self,
        depth: int,
        variant: str = "d",
        num_stages: int = 4,
        return_idx: Sequence[int] = (0, 1, 2, 3),
        act: str = "relu",
        freeze_at: int = -1,
        freeze_norm: bool = True,
        pretrained: bool | str = False,
        local_model_dir: str = "weights/resnets",
        in_channels: int = 3,
        block: Sequence[Part | None] | None = None,
        stem: Part | None = None,
        after: Sequence[Part | None] | None = None,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ConfigError(
                f"PResNet.depth: no depth {depth!r}",
                hint=f"depths: {', '.join(map(str, DEPTHS))}",
            )
        if variant not in ("a", "b", "c", "d"):
            raise ConfigError(f"PResNet.variant: {variant!r} must be a, b, c or d")
        if not 1 <= num_stages <= len(_WIDTHS):
            raise ConfigError(f"PResNet.num_stages: {num_stages} must be 1 to {len(_WIDTHS)}")
        if not return_idx or not all(0 <= i < num_stages for i in return_idx):
            raise ConfigError(
                f"PResNet.return_idx: {list(return_idx)} must name stages 0 to {num_stages - 1}"
            )
        counts, file = DEPTHS[depth]
        kind = BottleNeck if depth >= 50 else BasicBlock
        self.depth = depth
        self.in_channels = in_channels
        self.return_idx = tuple(return_idx)
        self.out_channels = [_WIDTHS[i] * kind.expansion for i in return_idx]
        self.out_strides = [4 * 2**i for i in return_idx]
        self.pretrained = pretrained
        self.pretrained_url = _WEIGHTS + file if variant == "d" else None
        self.local_model_dir = local_model_dir

        width = _WIDTHS[0]
        if variant in "cd":
            widths = [in_channels, width // 2, width // 2, width]
            first = [
                _conv(a, b, 3, 1 if i else 2, act) for i, (a, b) in enumerate(pairwise(widths))
            ]
        else:
            first = [_conv(in_channels, width, 7, 2, act)]
        self.conv1: nn.Module = nn.Sequential(
            OrderedDict((f"conv1_{i}", m) for i, m in enumerate(first, 1))
        )

        self.res_layers = nn.ModuleList()
        for i in range(num_stages):
            blocks: list[nn.Module] = []
            for j in range(counts[i]):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(kind(width, _WIDTHS[i], stride, j == 0, act, variant))
                width = _WIDTHS[i] * kind.expansion
            self.res_layers.append(Blocks(blocks))

        if freeze_at >= 0:
            self.conv1.requires_grad_(False)
            self.res_layers[:freeze_at].requires_grad_(False)
            if in_channels != 3:
                first[0].conv.requires_grad_(True)
        if freeze_norm:
            freeze_batch_norm(self)

        outer = [_WIDTHS[i] * kind.expansion for i in range(num_stages)]
        inner = [_WIDTHS[0], *outer[:-1]]
        sizes = [(outer[i] if i else inner[i], outer[i], counts[i]) for i in range(num_stages)]
        for i, chosen in enumerate(stage_blocks(block, "PResNet.block", sizes)):
            if chosen is not None:
                down = [_conv(inner[i], outer[i], 3, 2, act)] if i else []
                self.res_layers[i] = Blocks([*down, *chosen])
        self.pools_after_stem = stem is None
        if stem is not None:
            self.conv1 = build_part(stem, "PResNet.stem", in_channels, _WIDTHS[0], scale=0.25)
        self.after = modules_after(after, "PResNet.after", outer)
        self.pretrained_partial = block is not None or stem is not None or after is not None

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, in, H, W) -> maps (B, C_i, ceil(H/s_i), ceil(W/s_i)), finest first."""
        x = self.conv1(images)
        if self.pools_after_stem:
            x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        maps = []
        for i in range(max(self.return_idx) + 1):  # nobody needs what comes after
            x = self.after[i](self.res_layers[i](x))
            if i in self.return_idx:
                maps.append(x)
        return maps
