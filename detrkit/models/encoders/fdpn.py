"""FDPN: focusing diffusion pyramid network. In-house design of public collections, without a paper.

Attention on the coarsest map as in `HybridEncoder`; then the three scales are focused into the
middle one, spread back to all, focused and spread once more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.layers.conv import ConvNormAct
from detrkit.layers.position import sincos_2d
from detrkit.layers.size_cache import SizeCache
from detrkit.layers.tokens import from_tokens, size_of, tokens_of
from detrkit.models.encoders.blocks import (
    TransformerEncoder,
    TransformerEncoderLayer,
    projection,
)
from detrkit.modules.block.csp import C2f
from detrkit.modules.neck.fdpn import FocusFeature
from detrkit.registry import MODULES


@MODULES.register(share=("eval_spatial_size",), paper="in-house")
class FDPN(nn.Module):
    """Three maps -> two or three of width `hidden_dim`.

    Args:
        in_channels: widths of the maps, finest first; each is half as large as the one before.
        feat_strides: their strides.
        hidden_dim: width of the output maps; divisible by four and by `nhead`.
        nhead, dim_feedforward, dropout, enc_act, num_encoder_layers: of the attention on the
            coarsest map.
        pe_temperature: of the position embedding.
        kernel_sizes: of the depthwise convolutions that focus.
        depth_mult: depth of the fusion blocks; 1 means three bottlenecks.
        out_strides: of the output maps: all three, or the coarser two.
        eval_spatial_size: accepted, as encoders are given it; nothing here depends on sizes.

    Attributes:
        out_channels, out_strides: of the output maps.

    Raises:
        ConfigError: not three maps, or other strides.
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
        num_encoder_layers: int = 1,
        pe_temperature: float = 10000,
        kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        depth_mult: float = 1.0,
        out_strides: Sequence[int] | None = None,
        eval_spatial_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        strides = list(feat_strides)
        wanted = strides if out_strides is None else list(out_strides)
        if len(in_channels) != 3 or len(strides) != 3:
            raise ConfigError(f"FDPN takes three maps, got in_channels {list(in_channels)}")
        if wanted not in (strides, strides[1:]):
            raise ConfigError(
                f"FDPN.out_strides: {wanted} must be {strides} or the coarser two, {strides[1:]}"
            )
        self.in_channels = list(in_channels)
        self.hidden_dim = d = hidden_dim
        self.pe_temperature = pe_temperature
        self.out_strides = wanted
        self.out_channels = [d] * len(wanted)
        self._positions = SizeCache()
        depth = round(3 * depth_mult)

        def fusion(maps: int) -> C2f:
            return C2f(maps * d, d, shortcut=True, num_blocks=depth)

        def halve() -> ConvNormAct:
            return ConvNormAct(d, d, 3, stride=2, act="silu")

        self.input_proj = nn.ModuleList(projection(width, d) for width in in_channels)
        layer = TransformerEncoderLayer(d, nhead, dim_feedforward, dropout, enc_act)
        self.encoder = TransformerEncoder(layer, num_encoder_layers)
        self.focus1 = FocusFeature([d, d, d], kernel_sizes)
        self.focus2 = FocusFeature([d, d, d], kernel_sizes)
        self.down1, self.down2 = halve(), halve()
        self.coarse1, self.coarse2 = fusion(2), fusion(3)
        self.fine1 = fusion(2)
        self.fine2 = fusion(3) if len(wanted) == 3 else None

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, in_channels[i], h_i, w_i), finest first -> maps (B, hidden_dim, h_j, w_j)."""
        fine, middle, coarse = (proj(x) for proj, x in zip(self.input_proj, features, strict=True))
        if len(self.encoder.layers):
            coarse = self.attend(coarse)
        focus = self.focus1([coarse, middle, fine])
        down, up = self.down1(focus), _doubled(focus)
        coarse = self.coarse1(torch.cat([down, coarse], dim=1))
        fine = self.fine1(torch.cat([up, fine], dim=1))
        last = self.focus2([coarse, focus, fine])
        coarse = self.coarse2(torch.cat([self.down2(last), down, coarse], dim=1))
        if self.fine2 is None:
            return [last, coarse]
        return [self.fine2(torch.cat([_doubled(last), up, fine], dim=1)), last, coarse]

    def attend(self, x: Tensor) -> Tensor:
        """Attention among the pixels of one map. (B, C, h, w) -> (B, C, h, w)."""
        height, width = size_of(x)
        position = self.position(height, width, like=next(self.encoder.parameters()))
        return from_tokens(self.encoder(tokens_of(x), position), (height, width))

    def position(self, height: int, width: int, like: Tensor) -> Tensor:
        """(1, h·w, C) position embedding, on the device and in the precision of `like`."""
        return self._positions.get(
            (height, width, like.device, like.dtype),
            lambda: sincos_2d(height, width, self.hidden_dim, self.pe_temperature).to(like),
        )


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
