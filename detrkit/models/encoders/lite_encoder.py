"""The encoder of DEIMv2's smallest models: two scales from one map, no attention.

DEIMv2, arXiv:2509.20787. A pooled copy of the backbone's last map is the coarse
scale; the mean over all its pixels stands in for attention; then once down and once up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.layers.activations import get_activation
from detrkit.layers.conv import ConvNormAct
from detrkit.models.encoders.blocks import RepNCSPELAN, projection
from detrkit.models.encoders.joining import enlarge
from detrkit.modules.part import Part, build_part
from detrkit.registry import MODULES


class GlobalFusion(nn.Module):
    """Adds the mean over all pixels to each, then mixes channels. (B, C, h, w) -> same.

    Args:
        channels: C.
        act: activation.
    """

    def __init__(self, channels: int, act: str) -> None:
        super().__init__()
        self.cv = ConvNormAct(channels, channels, 1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv(x + F.adaptive_avg_pool2d(x, 1))


@MODULES.register(share=("eval_spatial_size",), parts=("block",), paper="arXiv:2509.20787")
class LiteEncoder(nn.Module):
    """One map -> two maps of width `hidden_dim`: its own scale and half of it.

    Args:
        in_channels: width of the one input map, in a list.
        feat_strides: its stride, in a list.
        hidden_dim: width of the output maps.
        expansion: width of the fusion blocks' branches, relative to half of `hidden_dim`.
        depth_mult: depth of the fusion blocks; 1 means three RepVGG blocks.
        act: activation.
        eval_spatial_size: accepted from authors' files; nothing here depends on sizes.
        csp_type: CSP layer of the fusion blocks: csp2, or csp as in `HybridEncoder`.
        block: module in place of the fusion blocks; gets `num_blocks` where it has that argument.

    Attributes:
        out_channels, out_strides: of the output maps.

    Raises:
        ConfigError: not exactly one input map, or an unknown `csp_type`.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (512,),
        feat_strides: Sequence[int] = (16,),
        hidden_dim: int = 256,
        expansion: float = 1.0,
        depth_mult: float = 1.0,
        act: str = "silu",
        eval_spatial_size: Sequence[int] | None = None,
        csp_type: str = "csp2",
        block: Part | None = None,
    ) -> None:
        super().__init__()
        if len(in_channels) != 1 or len(feat_strides) != 1:
            raise ConfigError(
                f"LiteEncoder takes one map: in_channels {list(in_channels)} and feat_strides "
                f"{list(feat_strides)} must have one entry",
                hint="let the backbone return one stage, or take HybridEncoder",
            )
        if csp_type not in ("csp", "csp2"):
            raise ConfigError(f"LiteEncoder.csp_type: {csp_type!r} must be csp or csp2")
        self.in_channels = list(in_channels)
        self.hidden_dim = hidden_dim
        self.out_channels = [hidden_dim] * 2
        self.out_strides = [feat_strides[0], 2 * feat_strides[0]]

        def downsample() -> nn.Sequential:
            return nn.Sequential(
                nn.AvgPool2d(kernel_size=3, stride=2, padding=1),
                nn.Conv2d(hidden_dim, hidden_dim, 1, bias=False),
                nn.BatchNorm2d(hidden_dim),
                get_activation(act),
            )

        def fusion_block() -> nn.Module:
            depth = round(3 * depth_mult)
            if block is not None:
                where, c = "LiteEncoder.block", hidden_dim
                return build_part(block, where, c, c, num_blocks=depth)
            return RepNCSPELAN(
                hidden_dim,
                hidden_dim,
                split_channels=2 * hidden_dim,
                branch_channels=round(expansion * hidden_dim // 2),
                num_blocks=depth,
                act=act,
                split=csp_type == "csp2",
            )

        self.input_proj = nn.ModuleList([projection(in_channels[0], hidden_dim)])
        self.down_sample1 = downsample()
        self.down_sample2 = downsample()
        self.bi_fusion = GlobalFusion(hidden_dim, act)
        self.fpn_block = fusion_block()
        self.pan_block = fusion_block()

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[(B, in, h, w)] -> [(B, C, h, w), (B, C, ceil(h/2), ceil(w/2))]."""
        (feature,) = features
        fine = self.input_proj[0](feature)
        coarse = self.bi_fusion(self.down_sample1(fine))
        fine = self.fpn_block(fine + enlarge(coarse, fine))
        return [fine, self.pan_block(coarse + self.down_sample2(fine))]
