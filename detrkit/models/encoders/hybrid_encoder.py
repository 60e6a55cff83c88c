"""The hybrid encoder of RT-DETR in D-FINE's form.

Attention on the coarsest map (AIFI), then a path down and a path up through the scales with
convolutional fusion blocks (CCFF): RT-DETR, arXiv:2304.08069, section 4.2; D-FINE,
arXiv:2410.13842, replaces the fusion blocks by GELAN and the strided convolutions by SCDown.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.models.encoders.blocks import (
    RepNCSPELAN4,
    SCDown,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from detrkit.models.layers.conv import ConvNormAct
from detrkit.models.layers.position import sincos_2d
from detrkit.models.layers.size_cache import SizeCache
from detrkit.registry import MODULES


@MODULES.register(share=("eval_spatial_size",), paper="arXiv:2304.08069, arXiv:2410.13842")
class HybridEncoder(nn.Module):
    """Maps of different widths -> as many maps of width `hidden_dim`, fused over the scales.

    A relative with other blocks overrides `fusion_block`, `lateral` and `downsample`.

    Args:
        in_channels: widths of the input maps, finest first.
        feat_strides: their strides.
        hidden_dim: width of the output maps; divisible by four and by `nhead`.
        nhead, dim_feedforward, dropout, enc_act: of the attention layers.
        use_encoder_idx: maps that get attention.
        num_encoder_layers: attention layers for each of them.
        pe_temperature: of the position embedding.
        expansion: width of the fusion blocks' branches, relative to half of `hidden_dim`.
        depth_mult: depth of the fusion blocks; 1 means three RepVGG blocks.
        act: activation of the fusion blocks.
        eval_spatial_size: accepted from authors' files; embeddings follow the actual sizes.

    Attributes:
        out_channels, out_strides: of the output maps.

    Raises:
        ConfigError: the arguments do not fit each other.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (512, 1024, 2048),
        feat_strides: Sequence[int] = (8, 16, 32),
        hidden_dim: int = 256,
        nhead: int = 8,
        dim_feedforward: int = 1024,
        dropout: float = 0.0,
        enc_act: str = "gelu",
        use_encoder_idx: Sequence[int] = (2,),
        num_encoder_layers: int = 1,
        pe_temperature: float = 10000,
        expansion: float = 1.0,
        depth_mult: float = 1.0,
        act: str = "silu",
        eval_spatial_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        levels = len(in_channels)
        if len(feat_strides) != levels:
            raise ConfigError(
                f"HybridEncoder: {levels} in_channels but {len(feat_strides)} feat_strides"
            )
        if not all(0 <= i < levels for i in use_encoder_idx):
            raise ConfigError(
                f"HybridEncoder.use_encoder_idx: {list(use_encoder_idx)} must be below {levels}"
            )
        if hidden_dim % 4 or hidden_dim % nhead:
            raise ConfigError(
                f"HybridEncoder.hidden_dim: {hidden_dim} is not divisible by 4 and nhead {nhead}"
            )
        self.in_channels = list(in_channels)
        self.hidden_dim = hidden_dim
        self.use_encoder_idx = tuple(use_encoder_idx)
        self.num_encoder_layers = num_encoder_layers
        self.pe_temperature = pe_temperature
        self.expansion = expansion
        self.depth_mult = depth_mult
        self.act = act
        self.out_channels = [hidden_dim] * levels
        self.out_strides = list(feat_strides)
        self._positions = SizeCache()

        self.input_proj = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(width, hidden_dim, 1, bias=False),
                    norm=nn.BatchNorm2d(hidden_dim),
                )
            )
            for width in in_channels
        )
        layer = TransformerEncoderLayer(hidden_dim, nhead, dim_feedforward, dropout, enc_act)
        self.encoder = nn.ModuleList(
            TransformerEncoder(layer, num_encoder_layers) for _ in use_encoder_idx
        )
        steps = range(levels - 1)
        self.lateral_convs = nn.ModuleList(self.lateral() for _ in steps)
        self.fpn_blocks = nn.ModuleList(self.fusion_block() for _ in steps)
        self.downsample_convs = nn.ModuleList(self.downsample() for _ in steps)
        self.pan_blocks = nn.ModuleList(self.fusion_block() for _ in steps)

    def lateral(self) -> nn.Module:
        """Prepares a coarse map before it is enlarged. (B, C, h, w) -> (B, C, h, w)."""
        return ConvNormAct(self.hidden_dim, self.hidden_dim, 1)

    def fusion_block(self) -> nn.Module:
        """Fuses two concatenated maps. (B, 2C, h, w) -> (B, C, h, w)."""
        c = self.hidden_dim
        branch = round(self.expansion * c // 2)
        return RepNCSPELAN4(2 * c, c, 2 * c, branch, round(3 * self.depth_mult), self.act)

    def downsample(self) -> nn.Module:
        """Halves a map. (B, C, h, w) -> (B, C, ceil(h/2), ceil(w/2))."""
        return nn.Sequential(SCDown(self.hidden_dim, self.hidden_dim))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, in_channels[i], h_i, w_i), finest first -> maps (B, hidden_dim, h_i, w_i)."""
        if len(features) != len(self.in_channels):
            raise ValueError(f"{len(features)} maps for {len(self.in_channels)} in_channels")
        maps = [proj(x) for proj, x in zip(self.input_proj, features, strict=True)]
        if self.num_encoder_layers > 0:
            for encoder, i in zip(self.encoder, self.use_encoder_idx, strict=True):
                maps[i] = self.attend(encoder, maps[i])

        # coarse to fine
        fused = [maps[-1]]
        for lateral, block, fine in zip(
            self.lateral_convs, self.fpn_blocks, maps[-2::-1], strict=True
        ):
            fused[0] = lateral(fused[0])
            fused.insert(0, block(torch.cat([_enlarge(fused[0], fine), fine], dim=1)))

        # fine to coarse
        outputs = [fused[0]]
        for down, block, coarse in zip(
            self.downsample_convs, self.pan_blocks, fused[1:], strict=True
        ):
            outputs.append(block(torch.cat([down(outputs[-1]), coarse], dim=1)))
        return outputs

    def attend(self, encoder: nn.Module, x: Tensor) -> Tensor:
        """Attention among the pixels of one map. (B, C, h, w) -> (B, C, h, w)."""
        h, w = x.shape[2:]
        tokens = encoder(x.flatten(2).transpose(1, 2), self.position(h, w))
        return tokens.transpose(1, 2).reshape(x.shape)

    def position(self, h: int, w: int) -> Tensor:
        """(1, h·w, C) position embedding, on the model's device and in its precision."""
        like: Tensor = self.input_proj[0].conv.weight  # type: ignore[union-attr,assignment]
        return self._positions.get(
            (h, w, like.device, like.dtype),
            lambda: sincos_2d(h, w, self.hidden_dim, self.pe_temperature).to(like),
        )


def _enlarge(coarse: Tensor, fine: Tensor) -> Tensor:
    """Nearest-neighbour enlargement to the size of `fine`: double, one less where that is odd."""
    h, w = coarse.shape[-2:]
    if fine.shape[-2:] == (2 * h, 2 * w):
        return F.interpolate(coarse, scale_factor=2.0, mode="nearest")
    return F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")
