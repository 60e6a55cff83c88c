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

Every part can be another module of maps (`detrkit modules`), named in the configuration:

    HybridEncoder:
      block: RepHMS                                    # fusion blocks
      fusion: MFM                                      # how two maps become one
      upsample: DySample
      downsample: {type: HWD}
      aifi: {attention: PolaLinearAttention, mlp: ConvolutionalGLU, norm: DynamicTanh}
      after: [null, null, CoordAtt]                    # behind the output of a level
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from detrkit.errors import ConfigError, did_you_mean
from detrkit.layers.conv import ConvNormAct
from detrkit.layers.position import sincos_2d
from detrkit.layers.size_cache import SizeCache
from detrkit.models.encoders.aifi import AIFILayer
from detrkit.models.encoders.blocks import (
    CSPLayer,
    RepNCSPELAN,
    SCDown,
    TransformerEncoder,
    TransformerEncoderLayer,
    projection,
)
from detrkit.models.encoders.joining import Enlarge, fitted, join_of
from detrkit.modules.part import Part, build_part, module_entry, per_level, split_part
from detrkit.registry import MODULES

#: The versions with RT-DETR's blocks.
_RTDETR = ("v1", "v2", "rt_detrv2")
#: argument -> its values
_CHOICES = {
    "version": ("dfine", "deim", *_RTDETR),
    "csp_type": ("csp", "csp2"),
    "fuse_op": ("cat", "sum"),
}


@MODULES.register(
    share=("eval_spatial_size",),
    parts=("block", "fusion", "upsample", "downsample", "aifi", "after"),
    paper="arXiv:2304.08069, arXiv:2410.13842",
)
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
        block: module in place of the fusion blocks; gets `num_blocks` where it has that argument.
        fusion: module that takes [moved, own] map, in place of `fuse_op`. One whose second map is
            half as large takes [own, coarse] on the way down to the fine maps and leaves the way
            back to `fuse_op`.
        upsample, downsample: modules that double and halve the sides.
        aifi: modules in place of attention, mlp and norm inside a scale.
        after: for each level a module behind its output, or None.

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
        block: Part | None = None,
        fusion: Part | None = None,
        upsample: Part | None = None,
        downsample: Part | None = None,
        aifi: Mapping[str, Part] | None = None,
        after: Sequence[Part | None] | None = None,
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
        self.block = block
        self.downsample = downsample
        self.out_channels = [hidden_dim] * levels
        self.out_strides = list(feat_strides)
        self._positions = SizeCache()

        self.input_proj = nn.ModuleList(
            projection(width, hidden_dim, named=version != "v1")
            if project_equal or width != hidden_dim
            else nn.Identity()
            for width in in_channels
        )
        self.encoder = self._attention(nhead, dim_feedforward, dropout, enc_act, aifi)
        steps = range(levels - 1)
        # before the blocks: they say how wide what they return is
        self.joins_coarse, self.joins_down = self._joins(fusion, levels - 1)
        self.enlarge = nn.ModuleList(
            Enlarge(hidden_dim, upsample, "HybridEncoder.upsample") for _ in steps
        )
        self.lateral_convs = nn.ModuleList(self._lateral() for _ in steps)
        self.fpn_blocks = nn.ModuleList(self._fusion_block(j) for j in self.joins_coarse)
        self.downsample_convs = nn.ModuleList(self._downsample() for _ in steps)
        self.pan_blocks = nn.ModuleList(self._fusion_block(j) for j in self.joins_down)
        self.after = nn.ModuleList(
            nn.Identity()
            if part is None
            else build_part(part, f"HybridEncoder.after[{i}]", hidden_dim, hidden_dim)
            for i, part in enumerate(per_level(after, levels, "HybridEncoder.after"))
        )

    def _attention(
        self,
        nhead: int,
        dim_feedforward: int,
        dropout: float,
        act: str,
        aifi: Mapping[str, Part] | None,
    ) -> nn.ModuleList:
        """Attention inside a scale, for each scale of `use_encoder_idx`."""
        layers, scales = range(self.num_encoder_layers), self.use_encoder_idx
        settings = (self.hidden_dim, nhead, dim_feedforward, dropout, act)
        if aifi is not None:
            return nn.ModuleList(
                nn.ModuleList(AIFILayer(aifi, *settings) for _ in layers) for _ in scales
            )
        layer = TransformerEncoderLayer(*settings)
        return nn.ModuleList(TransformerEncoder(layer, len(layers)) for _ in scales)

    def _joins(self, fusion: Part | None, count: int) -> tuple[nn.ModuleList, nn.ModuleList]:
        """How two maps become one, on the way to the fine maps and on the way back."""
        c, where = self.hidden_dim, "HybridEncoder.fusion"

        def plain() -> nn.ModuleList:
            return nn.ModuleList(join_of(self.fuse_op, c) for _ in range(count))

        def chosen(part: Part) -> nn.ModuleList:
            return nn.ModuleList(build_part(part, where, [c, c]) for _ in range(count))

        self.fusion_enlarges = False
        if fusion is None:
            return plain(), plain()
        traits = module_entry(split_part(fusion, where)[0], where).traits
        self.fusion_enlarges = traits is not None and traits.sides == (1.0, 0.5)
        return chosen(fusion), plain() if self.fusion_enlarges else chosen(fusion)

    def _lateral(self) -> nn.Module:
        """Prepares a coarse map before it is enlarged. (B, C, h, w) -> (B, C, h, w)."""
        act = self.act if self.version in _RTDETR else None
        return ConvNormAct(self.hidden_dim, self.hidden_dim, 1, act=act)

    def _fusion_block(self, join: nn.Module) -> nn.Module:
        """What `join` returns -> (B, C, h, w)."""
        c, width = self.hidden_dim, int(join.out_channels)  # type: ignore[arg-type]
        depth = round(3 * self.depth_mult)
        if self.block is not None:
            return build_part(self.block, "HybridEncoder.block", width, c, num_blocks=depth)
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
        if self.downsample is not None:
            return build_part(self.downsample, "HybridEncoder.downsample", c, c, scale=0.5)
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
        for lateral, enlarge, join, block, fine in zip(
            self.lateral_convs, self.enlarge, self.joins_coarse, self.fpn_blocks, maps[-2::-1],
            strict=True,
        ):  # fmt: skip
            coarse = fused[0] = lateral(fused[0])
            pair = [fine, coarse] if self.fusion_enlarges else [enlarge(coarse, fine), fine]
            fused.insert(0, block(join(pair)))

        # fine to coarse
        outputs = [fused[0]]
        for down, join, block, coarse in zip(
            self.downsample_convs, self.joins_down, self.pan_blocks, fused[1:], strict=True
        ):
            outputs.append(block(join([fitted(down(outputs[-1]), coarse), coarse])))
        return [last(x) for last, x in zip(self.after, outputs, strict=True)]

    def attend(self, encoder: nn.Module, x: Tensor) -> Tensor:
        """Attention among the pixels of one map. (B, C, h, w) -> (B, C, h, w)."""
        h, w = x.shape[2:]
        position = self.position(h, w, like=next(encoder.parameters()))
        if isinstance(encoder, nn.ModuleList):
            for layer in encoder:
                x = layer(x, position)
            return x
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
