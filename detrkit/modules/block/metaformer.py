"""MetaFormer blocks with any token mixer and feed-forward part.

MetaFormer Baselines for Vision, Yu et al., TPAMI 2024, arXiv:2210.13452:

    x <- s₁ · x + l₁ · mixer(norm x)
    x <- s₂ · x + l₂ · mlp(norm x)             s, l: learned per channel, where they are wanted

The combinations of public collections put a Mona adapter behind each sum, and take SEM-Net's
spatially enhanced feed-forward part, which also sees the input of the block.

    {type: MetaFormerBlock, mixer: GSA, mlp: ConvolutionalGLU}
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from detrkit.layers.activations import StarReLU
from detrkit.layers.conv import ConvNormAct
from detrkit.layers.drop_path import DropPath
from detrkit.modules.block.mona import Mona
from detrkit.modules.mlp.sefn import SEFN
from detrkit.modules.part import Part, build_part
from detrkit.registry import MODULES, Traits

_EXAMPLE = {"in_channels": 16, "out_channels": 24, "mixer": {"type": "Conv", "kernel_size": 3}}


class StarMlp(nn.Sequential):
    """The feed-forward part of the baselines. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        ratio: width inside, relative to C.
    """

    def __init__(self, channels: int, ratio: float = 4.0) -> None:
        hidden = int(channels * ratio)
        super().__init__(PixelLinear(channels, hidden), StarReLU(), PixelLinear(hidden, channels))


class PixelLinear(nn.Linear):
    """A linear layer without bias on each pixel. (B, C, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualScale(nn.Module):
    """s · x + l · drop(f(norm x)). (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        drop_path: rate at which training leaves f out.
        layer_scale, shortcut_scale: initial l and s; None: there is none.
    """

    def __init__(
        self,
        channels: int,
        drop_path: float,
        layer_scale: float | None,
        shortcut_scale: float | None,
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, eps=1e-6)  # over all values of an image
        self.drop = DropPath(drop_path)
        self.layer_scale = _scale(channels, layer_scale)
        self.shortcut_scale = _scale(channels, shortcut_scale)

    def forward(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        y = self.drop(branch(self.norm(x)))
        if self.layer_scale is not None:
            y = y * self.layer_scale[:, None, None]
        if self.shortcut_scale is not None:
            x = x * self.shortcut_scale[:, None, None]
        return x + y


def _scale(channels: int, value: float | None) -> nn.Parameter | None:
    return None if value is None else nn.Parameter(torch.full((channels,), value))


class MetaFormer(nn.Module):
    """What the four blocks have in common.

    Args:
        in_channels: C.
        out_channels: None keeps the width; another is made by a 1×1 convolution first.
        mixer: module in place of the token mixer; None: none, only the norm.
        drop_path: rate at which training leaves a branch out.
        layer_scale, shortcut_scale: initial factors of branch and shortcut; None: there are none.
        mona: whether an adapter follows each sum.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None,
        mixer: Part | None,
        drop_path: float,
        layer_scale: float | None,
        shortcut_scale: float | None,
        mona: bool,
    ) -> None:
        super().__init__()
        c = in_channels if out_channels is None else out_channels
        self.out_channels = c
        self.widen = (
            nn.Identity() if c == in_channels else ConvNormAct(in_channels, c, 1, act="silu")
        )
        where = f"{type(self).__name__}.mixer"
        self.mixer = nn.Identity() if mixer is None else build_part(mixer, where, c, c)
        self.sums = nn.ModuleList(
            ResidualScale(c, drop_path, layer_scale, shortcut_scale) for _ in range(2)
        )
        self.adapters = nn.ModuleList(Mona(c) if mona else nn.Identity() for _ in range(2))

    def feed_forward(self, x: Tensor, given: Tensor) -> Tensor:
        """The second branch; `given` is the widened input of the block."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        given = self.widen(x)
        x = self.adapters[0](self.sums[0](given, self.mixer))
        return self.adapters[1](self.sums[1](x, lambda y: self.feed_forward(y, given)))


@MODULES.register(
    "MetaFormerBlock",
    "MetaFormer_Block",
    family="block",
    paper="arXiv:2210.13452",
    venue="TPAMI 2024",
    example=_EXAMPLE | {"layer_scale": 0.5, "shortcut_scale": 1.0},
    traits=Traits(),
    parts=("mixer", "mlp"),
)
class MetaFormerBlock(MetaFormer):
    """Token mixer, then feed-forward. (B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels, out_channels, mixer, drop_path, layer_scale, shortcut_scale: see `MetaFormer`.
        mlp: module in place of the feed-forward part; None: that of the baselines.
        mlp_ratio: width inside `mlp`, relative to `out_channels`; that of the baselines is 4.
    """

    with_mona = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        mixer: Part | None = None,
        mlp: Part | None = None,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        shortcut_scale: float | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, mixer, drop_path, layer_scale, shortcut_scale,
            self.with_mona,
        )  # fmt: skip
        c, where = self.out_channels, f"{type(self).__name__}.mlp"
        hidden = int(c * mlp_ratio)
        self.mlp = (
            StarMlp(c) if mlp is None else build_part(mlp, where, c, c, hidden_channels=hidden)
        )

    def feed_forward(self, x: Tensor, given: Tensor) -> Tensor:
        return self.mlp(x)


@MODULES.register(
    "MetaFormerMona",
    "MetaFormer_Mona",
    family="block",
    paper="arXiv:2210.13452, arXiv:2408.08345",
    example=_EXAMPLE,
    traits=Traits(),
    parts=("mixer", "mlp"),
)
class MetaFormerMona(MetaFormerBlock):
    """`MetaFormerBlock`, an adapter behind each sum. (B, C, H, W) -> (B, out_channels, H, W)."""

    with_mona = True


@MODULES.register(
    "MetaFormerSEFN",
    "MetaFormer_SEFN",
    family="block",
    paper="arXiv:2210.13452, arXiv:2411.06318",
    example=_EXAMPLE,
    traits=Traits(),
    parts=("mixer",),
)
class MetaFormerSEFN(MetaFormer):
    """The feed-forward part sees the block's input too. (B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels, out_channels, mixer, drop_path, layer_scale, shortcut_scale: see `MetaFormer`.
        mlp_ratio: width inside the feed-forward part, relative to `out_channels`.
    """

    with_mona = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        mixer: Part | None = None,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        shortcut_scale: float | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, mixer, drop_path, layer_scale, shortcut_scale,
            self.with_mona,
        )  # fmt: skip
        c = self.out_channels
        self.mlp = SEFN([c, c], hidden_channels=int(c * mlp_ratio))

    def feed_forward(self, x: Tensor, given: Tensor) -> Tensor:
        return self.mlp([x, given])


@MODULES.register(
    "MetaFormerMonaSEFN",
    "MetaFormer_Mona_SEFN",
    family="block",
    paper="arXiv:2210.13452, arXiv:2411.06318, arXiv:2408.08345",
    example=_EXAMPLE,
    traits=Traits(),
    parts=("mixer",),
)
class MetaFormerMonaSEFN(MetaFormerSEFN):
    """`MetaFormerSEFN`, an adapter behind each sum. (B, C, H, W) -> (B, out_channels, H, W)."""

    with_mona = True
