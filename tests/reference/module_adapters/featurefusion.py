"""Adapters of the family `featurefusion`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.modules.featurefusion.csfcn import ContextCalibration, SpatialCalibration
from detrkit.modules.featurefusion.dpcf import DPCF
from detrkit.modules.featurefusion.gdsafusion import GDSAFusion, scale_of
from detrkit.modules.featurefusion.msam import IdentityBlock
from tests.reference.module_adapters.adapter import Adapter, named


def csfcn(case: Any) -> nn.Module:
    kind = case.variant.split(" ")[0]
    if "paper" not in case.variant:
        return named(kind, inc="in_channels", ouc="out_channels")(case)
    if kind == "SFC_G2":
        return SpatialCalibration([256, 128], 128, squeezed_channels=32, act="relu")
    return ContextCalibration(512, out_channels=256, bottleneck=4, act="relu")


def mpca(case: Any) -> nn.Module:
    kind = case.variant.split(" ")[0]
    return named(kind, input_channel="in_channels", output_channel="out_channels")(case)


def dpcf(case: Any) -> nn.Module:
    """The repository's tail has a convolution with bias and ReLU."""
    if "paper" not in case.variant:
        return named("DPCF", in_features="in_channels", out_features="out_channels")(case)
    width, out = case.kwargs["in_features"], case.kwargs["out_features"]
    module = DPCF([width, width], out)
    module.fuse = ConvNormAct(width, out, 1, bias=True, act="relu")
    return module


def msam(case: Any) -> nn.Module:
    """In the plug-in form the 1×1 convolutions of the identity blocks stay linear by mistake."""
    kind = case.variant.split(" ")[0]
    module = named(kind, dim_in="in_channels", dim_out="out_channels")(case)
    if "corrected" not in case.variant:
        for block in module.modules():
            if isinstance(block, IdentityBlock):
                block.layers[0].act = block.layers[2].act = nn.Identity()
    return module


def pst(case: Any) -> nn.Module:
    arguments = dict(
        c2="out_channels", n="num_blocks", e="expansion", k="top_k",
        in_channels=[case.kwargs["c1"], case.kwargs["c_up"]],
    )  # fmt: skip
    module = named("PST", drop=("c1", "c_up"), **arguments)(case)
    for block in module.blocks:  # the reference counts them whether they learn or not
        block.attention.gate.requires_grad_(True)
    return module


class PluginFusion(GDSAFusion):
    """Of the collections: the last step stands in the place of the first shortcut too."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        z = self.filtered(self.norm(self.mixed(torch.cat(list(maps), 1))))
        return self.match(self.fed_forward(self.position(self.fed_forward(z))))


class OverlockBlock(nn.Module):
    """The repository's block: the context is renewed from its start, and goes on."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module
        width = module.widths[1]
        self.own, self.first = scale_of(width, 1.0), scale_of(width, 1.0)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x, context, start = maps
        out = self.module([x, self.own(context) + self.first(start)])
        return list(out.split(self.module.widths, 1))


def gdsafusion(case: Any) -> nn.Module:
    """The repository has twice the heads and one branch more."""
    if "paper" in case.variant:
        given = case.kwargs
        assert given["res_scale"]
        branches = ((5, 1), (3, 1), (3, 2), (3, 3))
        module = GDSAFusion(
            [given["dim"], given["ctx_dim"] // 4], None, given["kernel_size"], given["smk_size"],
            2 * given["num_heads"], mlp_ratio=given["mlp_ratio"],
            ls_init_value=given["ls_init_value"], branches=branches,
        )  # fmt: skip
        return OverlockBlock(module)
    module = named("GDSAFusion", in_dim="in_channels", out_channel="out_channels")(case)
    del module.shortcut
    module.__class__ = PluginFusion
    return module


ADAPTERS = {
    "GDSAFusion": Adapter(gdsafusion, corrected="the authors' first shortcut"),
    "cgfm": Adapter(named("ContextGuideFusionModule", inc="in_channels", ouc="out_channels")),
    "mfm": Adapter(named("MFM", inc="in_channels", dim="out_channels")),
    "msga": Adapter(named("MultiScaleGatedAttn", inc="in_channels", ouc="out_channels")),
    "CSFCN": Adapter(csfcn),
    "mpca": Adapter(mpca),
    "DPCF": Adapter(dpcf),
    "wfu": Adapter(named("WFU", in_chn="in_channels", ou_chn="out_channels")),
    "MSAM": Adapter(msam, corrected="identity blocks with their ReLU"),
    "PST": Adapter(pst),
}
