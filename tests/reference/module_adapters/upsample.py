"""Adapters of the family `upsample`."""

from __future__ import annotations

from typing import Any

from torch import nn

from detrkit.layers.conv import ConvNormAct
from tests.reference.module_adapters.adapter import Adapter, named
from tests.reference.module_adapters.conv import converse


def eucb(case: Any) -> nn.Module:
    act = "silu" if case.variant.endswith("silu") else case.kwargs["activation"]
    return named("EUCB", drop=("stride", "activation"), act=act)(case)


def carafe(case: Any) -> nn.Module:
    """The unofficial form has norms in place of biases, and SiLU."""
    if case.variant != "unofficial_bn_silu":
        drop = ("encoder_dilation",)
        return named("CARAFE", drop, channels="in_channels", scale_factor="scale")(case)
    module = named("CARAFE", c="in_channels")(case)
    module.compress = ConvNormAct(case.kwargs["c"], 64, 1, act="silu")
    module.encode = ConvNormAct(64, module.encode.out_channels, 3)
    return module


ADAPTERS = {
    "CARAFE": Adapter(carafe),
    "Converse2D_Up": Adapter(converse),
    "DySample": Adapter(named("DySample")),
    "WaveletUnPool": Adapter(named("WaveletUnPool", in_channels=64)),
    "eucb": Adapter(eucb),
    "eucb_sc": Adapter(named("EUCB_SC", drop=("stride",))),
}
