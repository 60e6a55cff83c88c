"""Adapters of the family `mamba`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from detrkit.modules.mamba.savss import SAVSS
from tests.reference.module_adapters.adapter import Adapter, named, with_linear


def ss2d(case: Any) -> nn.Module:
    assert case.kwargs.get("dt_rank", "auto") == "auto"
    gated = "noz" not in case.kwargs.get("forward_type", "v2")
    build = named("SS2D", drop=("dt_rank", "forward_type"), d_model="in_channels", gated=gated)
    if case.kwargs.get("ssm_rank_ratio", 2.0) < case.kwargs.get("ssm_ratio", 2.0):
        build = with_linear(build, "up")
    return build(case)


class PublishedSAVSS(SAVSS):
    """The inverse of the third order names the last step everywhere."""

    def places(self, orders: Tensor) -> Tensor:
        places = super().places(orders).clone()
        places[2] = orders.shape[1] - 1
        return places


def savss(case: Any) -> nn.Module:
    assert case.kwargs.get("dt_rank", "auto") == "auto"
    build = named(
        "SAVSS", drop=("dt_rank", "conv_size", "bias"), d_model="in_channels",
        init_layer_scale="layer_scale",
    )  # fmt: skip
    module = build(case)
    if "corrected" not in case.variant:
        module.__class__ = PublishedSAVSS
    return module


def vmm(case: Any) -> nn.Module:
    build = named(
        "VMM", drop=("inp_shape", "shift_size"), hidden_dim="in_channels",
        shifted=bool(case.kwargs.get("shift_size", 0)),
    )  # fmt: skip
    return with_linear(build, "in_proj", "out_proj")(case)


def csi(case: Any) -> nn.Module:
    if "paper" in case.variant:
        return named("GatedCSI", in_features="in_channels", filters="out_channels")(case)
    return named("CSI", input_dim="in_channels")(case)


ADAPTERS = {
    "SS2D": Adapter(ss2d),
    "ASSM": Adapter(named("ASSM", dim="in_channels"), corrected="no noise in evaluation"),
    "SAVSS": Adapter(savss, corrected="true inverse of the third order"),
    "MobileMamba": Adapter(
        named(
            "MobileMambaModule", drop=("forward_type",), dim="in_channels", kernels="kernel_size"
        ),
        corrected="no mixing of images",
    ),
    "MaIR": Adapter(vmm),
    "GLVSS": Adapter(named("GL_VSS", drop=("drop_path",), dim="in_channels")),
    "VSSD": Adapter(named("VMAMBA2Block", drop=("linear_attn_duality",), dim="in_channels")),
    "TinyViM": Adapter(
        named("TViMBlock", hidden_dim="in_channels", ssm_d_state="d_state", index="stage")
    ),
    "CSI": Adapter(csi),
}
