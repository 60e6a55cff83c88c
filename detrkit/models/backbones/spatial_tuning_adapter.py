"""A vision transformer of one resolution made into three maps: DEIMv2's spatial tuning adapter.

DEIMv2, arXiv:2509.20787, section 3: maps of three blocks of the transformer are resized to the
strides 8, 16 and 32, joined with the details that a small convolutional network sees at these
strides, and projected to one width.

    images (B, C, H, W) ─┬─ transformer, stride 16 ─ resize ─┬─ join ─ 1×1, norm ─> 8, 16, 32
                         └─ convolutions, strides 8, 16, 32 ─┘
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import ConfigError, did_you_mean
from detrkit.layers.conv import fused_convolution
from detrkit.models.backbones.dinov3 import ARCHITECTURES, DINOv3
from detrkit.models.backbones.vit_tiny import ViTTiny
from detrkit.registry import MODULES

_STRIDES = (8, 16, 32)
_PATCH = 16

_LICENSED = (
    "Meta gives DINOv3's weights out under its own licence: ask for them as "
    "https://github.com/facebookresearch/dinov3 explains and put the file there"
)
_DISTILLED = "download it from https://drive.google.com/file/d/{}/view and put it there"

#: name -> how users get its pretrained weights
_SOURCES = {
    "vit_tiny": _DISTILLED.format("1YMTq_woOLjAcZnHSYNTsNg7f0ahj5LPs"),
    "vit_tinyplus": _DISTILLED.format("1COHfjzq5KfnEaXTluVGEOMdhpuVcG6Jt"),
    **dict.fromkeys(ARCHITECTURES, _LICENSED),
}


class SpatialPrior(nn.Module):
    """Convolutions that see details. images (B, in, H, W) -> maps of strides 8, 16, 32.

    Args:
        width: w of the stem; the maps have 2w, 4w and 4w channels.
        in_channels: of the images.
    """

    def __init__(self, width: int = 16, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_halve(in_channels, width), nn.GELU(), nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        )
        self.conv2 = nn.Sequential(*_halve(width, 2 * width))
        self.conv3 = nn.Sequential(nn.GELU(), *_halve(2 * width, 4 * width))
        self.conv4 = nn.Sequential(nn.GELU(), *_halve(4 * width, 4 * width))
        self.out_channels = [2 * width, 4 * width, 4 * width]

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.conv2(self.stem(images))
        middle = self.conv3(fine)
        return [fine, middle, self.conv4(middle)]


def _halve(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module]:
    """A strided convolution and its norm. (B, in, H, W) -> (B, out, ceil(H/2), ceil(W/2))."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(out_channels)


@MODULES.register(share=("in_channels",), paper="arXiv:2509.20787")
class DINOv3STAs(nn.Module):
    """DINOv3 or a ViT-Tiny with the adapter. images -> maps of strides 8, 16, 32.

    The images' sides are multiples of 32 (of 16 without the convolutions), whatever their ratio.

    The constructor loads nothing: `weights_path` says what the trainer shall load. ViT-Tiny and
    ViT-Tiny+ are on the pages of DEIMv2's authors; DINOv3's weights come from Meta under the
    DINOv3 licence, which each user accepts at https://github.com/facebookresearch/dinov3.

    Args:
        name: "vit_tiny", "vit_tinyplus", "dinov3_vits16" or "dinov3_vits16plus".
        weights_path: file of the transformer's pretrained weights for training from scratch;
            None starts from random ones.
        interaction_indexes: three blocks, rising, counted from 0, whose tokens become the maps,
            finest first; or one, whose tokens become all three.
        finetune: whether the transformer trains; if not, only the adapter does. RoPE's
            coordinates are rescaled in training either way.
        embed_dim, num_heads: of a ViT-Tiny; 256 and 4 for ViT-Tiny+. DINOv3 has its own.
        patch_size: 16, as both kinds of transformer have.
        use_sta: whether the convolutional network is there.
        conv_inplane: width of its stem.
        hidden_dim: width of the maps; None: that of the transformer.
        in_channels: of the images. Other than 3, the map of patches trains even without
            `finetune`: its weights are new.

    Attributes:
        out_channels, out_strides: of the returned maps.
        pretrained: `weights_path`.
        pretrained_part: the module whose weights the file holds.
        pretrained_hint: how users get the file.

    Raises:
        ConfigError: there is no such transformer, block or patch size; in `forward`, the images'
            sides are not multiples of the coarsest stride.
    """

    def __init__(
        self,
        name: str,
        weights_path: str | None = None,
        interaction_indexes: Sequence[int] = (3, 7, 11),
        finetune: bool = True,
        embed_dim: int = 192,
        num_heads: int = 3,
        patch_size: int = 16,
        use_sta: bool = True,
        conv_inplane: int = 16,
        hidden_dim: int | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if name not in _SOURCES:
            raise ConfigError(
                f"DINOv3STAs.name: no transformer `{name}`{did_you_mean(str(name), _SOURCES)}",
                hint=f"known: {', '.join(_SOURCES)}",
            )
        if patch_size != _PATCH:
            raise ConfigError(f"DINOv3STAs.patch_size: {patch_size}; all transformers have 16")
        self.dinov3: ViTTiny | DINOv3 = (
            DINOv3(ARCHITECTURES[name], in_channels)
            if name in ARCHITECTURES
            else ViTTiny(embed_dim, num_heads, in_channels)
        )
        self.interaction_indexes = _checked(interaction_indexes, self.dinov3.depth)
        if not finetune:
            self.dinov3.requires_grad_(False)
            if in_channels != 3:
                self.pretrained_part.patch_embed.requires_grad_(True)

        self.use_sta = use_sta
        details = [0, 0, 0]
        if use_sta:
            self.sta = SpatialPrior(conv_inplane, in_channels)
            details = self.sta.out_channels
        width = self.dinov3.embed_dim
        hidden_dim = hidden_dim or width
        self.convs = nn.ModuleList(
            nn.Conv2d(width + detail, hidden_dim, 1, bias=False) for detail in details
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(hidden_dim) for _ in details)

        self.name = name
        self.in_channels = in_channels
        self.out_channels = [hidden_dim] * len(_STRIDES)
        self.out_strides = list(_STRIDES)
        self.pretrained = weights_path
        self.pretrained_hint = (
            f"{_SOURCES[name]}; or start from random weights: --update DINOv3STAs.weights_path=null"
        )

    @property
    def pretrained_part(self) -> nn.Module:
        """The transformer, as its own checkpoints name its parameters."""
        return self.dinov3.pretrained_part

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, in, H, W) -> maps (B, hidden_dim, H/s, W/s) for s = 8, 16, 32."""
        if not torch.jit.is_tracing():
            self._check(images.shape[2], images.shape[3])
        maps = self.dinov3(images, self.interaction_indexes)
        maps = maps * 3 if len(maps) == 1 else maps
        maps = [self._resized(x, stride) for x, stride in zip(maps, _STRIDES, strict=True)]
        if self.use_sta:
            details = self.sta(images)
            maps = [torch.cat(pair, dim=1) for pair in zip(maps, details, strict=True)]
        return [norm(conv(x)) for x, conv, norm in zip(maps, self.convs, self.norms, strict=True)]

    def convert_to_deploy(self) -> None:
        """Folds the last norms into their convolutions."""
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                self.convs[i], self.norms[i] = fused_convolution(conv, norm), nn.Identity()

    def _check(self, height: int, width: int) -> None:
        multiple = _STRIDES[-1] if self.use_sta else _PATCH
        if height % multiple or width % multiple:
            raise ConfigError(
                f"DINOv3STAs: sides of images must be multiples of {multiple}, "
                f"got {height}×{width}",
                hint="choose another image size (--size)",
            )

    @staticmethod
    def _resized(x: Tensor, stride: int) -> Tensor:
        """A map of stride 16, (B, C, h, w), at another stride."""
        if stride == _PATCH:
            return x
        h, w = x.shape[2] * _PATCH // stride, x.shape[3] * _PATCH // stride
        return F.interpolate(x, size=(h, w), mode="bilinear", align_corners=False)


def _checked(indexes: Sequence[int], depth: int) -> tuple[int, ...]:
    rising = all(a < b for a, b in pairwise(indexes))
    if len(indexes) not in (1, 3) or not rising or indexes[0] < 0 or indexes[-1] >= depth:
        raise ConfigError(
            f"DINOv3STAs.interaction_indexes: {list(indexes)} must be one block or three rising "
            f"ones of 0 to {depth - 1}"
        )
    return tuple(indexes)
