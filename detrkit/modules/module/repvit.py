"""RepViT: Revisiting Mobile CNN From ViT Perspective. Wang et al., CVPR 2024, arXiv:2307.09283.

u = SE(BN(BN(DW3×3(x)) + DW1×1(x) + x))             stride 1, the token mixer of figure 3
u = BN(W SE(BN(DW_k×k(x))))                          stride 2
y = u + BN(W gelu(BN(W u)))

In deployment the three branches are one 3×3 convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.conv import (
    ConvNormAct,
    centred_kernel,
    convolution_of,
    fused_convolution,
    fused_weights,
    matched,
)
from detrkit.layers.depthwise import depthwise
from detrkit.layers.squeeze_excite import SqueezeExcite
from detrkit.registry import MODULES, Traits


class RepVGGDW(nn.Module):
    """Depthwise 3×3, 1×1 and identity, with norms. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(channels, channels, 3, groups=channels)
        self.conv1 = depthwise(channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        if "fused" in self._modules:
            return self.fused(x)
        return self.norm(self.conv(x) + self.conv1(x) + x)

    @torch.no_grad()
    def convert_to_deploy(self) -> None:
        """Adds the kernels, the identity's is a one in the middle, and folds the norm."""
        if "fused" in self._modules:
            return
        kernel, bias = fused_weights(self.conv.conv, self.conv.norm)
        assert self.conv1.bias is not None
        kernel = kernel + centred_kernel(self.conv1.weight + 1, 3)
        conv = convolution_of(kernel, bias + self.conv1.bias, groups=kernel.shape[0])
        self.fused = fused_convolution(conv, self.norm)
        del self.conv, self.conv1, self.norm


@MODULES.register(
    family="module",
    paper="arXiv:2307.09283",
    venue="CVPR 2024",
    example={"in_channels": 16},
    traits=Traits(),
)
class RepViTBlock(nn.Module):
    """A token mixer that fuses, then a channel mixer. (B, C, H, W) -> (B, out, H/s, W/s).

    Args:
        in_channels: C.
        out_channels: None: C; at stride 1 another width is made first.
        kernel_size: odd, at stride 2.
        stride: 1 or 2; odd sides are rounded up.
        use_se: squeeze and excitation, which every second block of the networks has.
        expansion: width of the channel mixer, relative to `out_channels`.

    Raises:
        ValueError: another stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        use_se: bool = True,
        expansion: float = 2.0,
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, got {stride}")
        self.out_channels = c = out_channels or in_channels
        hidden = int(c * expansion)
        inside = c if stride == 1 else in_channels
        squeezed = max(8, (inside // 4 + 4) // 8 * 8)
        squeeze = SqueezeExcite(inside, squeezed) if use_se else nn.Identity()
        if stride == 1:
            self.token_mixer = nn.Sequential(matched(in_channels, c), RepVGGDW(c), squeeze)
        else:
            self.token_mixer = nn.Sequential(
                ConvNormAct(inside, inside, kernel_size, stride, groups=inside),
                squeeze,
                ConvNormAct(inside, c, 1),
            )
        self.channel_mixer = nn.Sequential(
            ConvNormAct(c, hidden, 1, act="gelu"), ConvNormAct(hidden, c, 1)
        )
        nn.init.zeros_(self.channel_mixer[1].norm.weight)  # type: ignore[union-attr, arg-type]

    def forward(self, x: Tensor) -> Tensor:
        u = self.token_mixer(x)
        return u + self.channel_mixer(u)
