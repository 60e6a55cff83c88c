"""The hybrid encoder of RT-DETR, D-FINE, DEIM and DEIMv2.

Attention on the coarsest map (AIFI), then a path down and a path up through the scales with
convolutional fusion blocks (CCFF): RT-DETR, arXiv:2304.08069, section 4.2. The families differ in
the blocks:

    version         lateral      fusion block                   downsampling
    v1, v2,         1×1 + act    CSPLayer                       3×3, stride 2, + act
      rt_detrv2
    dfine           1×1          RepNCSPELAN4 (csp or csp2)     SCDown
    deim            1×1          RepNCSPELAN5                   SCDown

`v1` (RT-DETR) and `v2` (RT-DETRv2) differ in the names of the input projection only;
`rt_detrv2` is what DEIM calls `v2`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigError, did_you_mean
from detrkit.layers.conv import ConvNormAct
from detrkit.layers.position import sincos_2d
from detrkit.layers.size_cache import SizeCache
from detrkit.models.encoders.blocks import (
    CSPLayer,
    RepNCSPELAN,
    SCDown,
    TransformerEncoder,
    TransformerEncoderLayer,
    enlarge,
    projection,
)
from detrkit.registry import MODULES

#: The versions with RT-DETR's blocks.
_RTDETR = ("v1", "v2", "rt_detrv2")
#: argument -> its values
_CHOICES = {
    "version": ("dfine", "deim", *_RTDETR),
    "csp_type": ("csp", "csp2"),
    "fuse_op": ("cat", "sum"),
}


@MODULES.register(share=("eval_spatial_size",), paper="arXiv:2304.08069, arXiv:2410.13842")
class HybridEncoder(nn.Module):
    """Maps of different widths -> as many maps of width `hidden_dim`, fused over the scales.

    Args:
        in_channels: widths of the input maps, finest first.
        feat_strides: their strides.
        hidden_dim: width of the output maps; divisible by four and by `nhead`.
        nhead, dim_feedforward, dropout, enc_act: of the attention layers.
        use_encoder_idx: maps that get attention.
        num_encoder_layers: attention layers for each of them.
        pe_temperature: of the position embedding.
        expansion: width of the fusion blocks' branches: relative to half of `hidden_dim` for
            dfine and deim, to `hidden_dim` for the versions of RT-DETR.
        depth_mult: depth of the fusion blocks; 1 means three RepVGG blocks.
        act: activation of the convolutions across scales.
        eval_spatial_size: accepted from authors' files; embeddings follow the actual sizes.
        version: the blocks: dfine (also DEIM's default), deim (DEIMv2), or rt_detrv2, v2 and v1.
            Files of RT-DETR's repository, where `v2` is the default, get it from the
            configuration.
        csp_type: CSP layer in dfine's fusion blocks: csp, or DEIMv2's csp2. The block of deim
            always has csp2, those of RT-DETR csp.
        fuse_op: how two maps enter a fusion block: concatenated (cat) or, in DEIMv2, added (sum).
        project_equal: whether a map that is `hidden_dim` wide already is projected too. DEIMv2
            passes it on; files with its decoder get that from the configuration.

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
        version: str = "dfine",
        csp_type: str = "csp",
        fuse_op: str = "cat",
        project_equal: bool = True,
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
        for argument, value in zip(_CHOICES, (version, csp_type, fuse_op), strict=True):
            _check_choice(argument, value)
        self.in_channels = list(in_channels)
        self.hidden_dim = hidden_dim
        self.use_encoder_idx = tuple(use_encoder_idx)
        self.num_encoder_layers = num_encoder_layers
        self.pe_temperature = pe_temperature
        self.expansion = expansion
        self.depth_mult = depth_mult
        self.act = act
        self.version = version
        self.csp_type = csp_type
        self.fuse_op = fuse_op
        self.out_channels = [hidden_dim] * levels
        self.out_strides = list(feat_strides)
        self._positions = SizeCache()

        self.input_proj = nn.ModuleList(
            projection(width, hidden_dim, named=version != "v1")
            if project_equal or width != hidden_dim
            else nn.Identity()
            for width in in_channels
        )
        layer = TransformerEncoderLayer(hidden_dim, nhead, dim_feedforward, dropout, enc_act)
        self.encoder = nn.ModuleList(
            TransformerEncoder(layer, num_encoder_layers) for _ in use_encoder_idx
        )
        steps = range(levels - 1)
        self.lateral_convs = nn.ModuleList(self._lateral() for _ in steps)
        self.fpn_blocks = nn.ModuleList(self._fusion_block() for _ in steps)
        self.downsample_convs = nn.ModuleList(self._downsample() for _ in steps)
        self.pan_blocks = nn.ModuleList(self._fusion_block() for _ in steps)

    def _lateral(self) -> nn.Module:
        """Prepares a coarse map before it is enlarged. (B, C, h, w) -> (B, C, h, w)."""
        act = self.act if self.version in _RTDETR else None
        return ConvNormAct(self.hidden_dim, self.hidden_dim, 1, act=act)

    def _fusion_block(self) -> nn.Module:
        """Two maps, concatenated or added -> (B, C, h, w)."""
        c = self.hidden_dim
        width = c if self.fuse_op == "sum" else 2 * c
        depth = round(3 * self.depth_mult)
        if self.version in _RTDETR:
            return CSPLayer(width, c, depth, self.expansion, self.act)
        deim = self.version == "deim"
        return RepNCSPELAN(
            width,
            c,
            split_channels=2 * c,
            branch_channels=round(self.expansion * c // 2),
            num_blocks=depth,
            act=self.act,
            split=deim or self.csp_type == "csp2",
            smooth=not deim,
        )

    def _downsample(self) -> nn.Module:
        """Halves a map. (B, C, h, w) -> (B, C, ceil(h/2), ceil(w/2))."""
        c = self.hidden_dim
        if self.version in _RTDETR:
            return ConvNormAct(c, c, 3, stride=2, act=self.act)
        return nn.Sequential(SCDown(c, c))

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
            fused.insert(0, block(self._join(enlarge(fused[0], fine), fine)))

        # fine to coarse
        outputs = [fused[0]]
        for down, block, coarse in zip(
            self.downsample_convs, self.pan_blocks, fused[1:], strict=True
        ):
            outputs.append(block(self._join(down(outputs[-1]), coarse)))
        return outputs

    def _join(self, moved: Tensor, own: Tensor) -> Tensor:
        """A map from the neighbouring scale and the scale's own."""
        return moved + own if self.fuse_op == "sum" else torch.cat([moved, own], dim=1)

    def attend(self, encoder: nn.Module, x: Tensor) -> Tensor:
        """Attention among the pixels of one map. (B, C, h, w) -> (B, C, h, w)."""
        h, w = x.shape[2:]
        position = self.position(h, w, like=next(encoder.parameters()))
        tokens = encoder(x.flatten(2).transpose(1, 2), position)
        return tokens.transpose(1, 2).reshape(x.shape)

    def position(self, h: int, w: int, like: Tensor) -> Tensor:
        """(1, h·w, C) position embedding, on the device and in the precision of `like`."""
        return self._positions.get(
            (h, w, like.device, like.dtype),
            lambda: sincos_2d(h, w, self.hidden_dim, self.pe_temperature).to(like),
        )


def _check_choice(argument: str, value: str) -> None:
    known = _CHOICES[argument]
    if value not in known:
        raise ConfigError(
            f"HybridEncoder.{argument}: no `{value}`{did_you_mean(str(value), known)}",
            hint=f"known: {', '.join(known)}",
        )
