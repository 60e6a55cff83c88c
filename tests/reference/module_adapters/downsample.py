"""Adapters of the family `downsample`."""

from __future__ import annotations

from typing import Any

from torch import nn

from detrkit.layers.conv import ConvNormAct
from tests.reference.module_adapters.adapter import Adapter, named


def gcnet(case: Any) -> nn.Module:
    """The plug-in's form: SiLU, biases, and a norm behind the last layer."""
    module = named("ContextGuidedBlock_Down", nIn="in_channels", nOut="out_channels")(case)
    if case.variant.startswith("silu"):
        width, out = case.kwargs["nIn"], case.kwargs["nOut"]
        module.down = ConvNormAct(width, out, 3, 2, act="silu")
        module.local = nn.Conv2d(out, out, 3, padding=1, groups=out)
        module.surrounding = nn.Conv2d(out, out, 3, padding=2, dilation=2, groups=out)
        module.joint[1] = nn.SiLU()
        module.reduce = ConvNormAct(2 * out, out, 1, act="silu")
    return module


def hwd(case: Any) -> nn.Module:
    plugin = {"bias": False, "act": "silu"} if case.variant.startswith("silu") else {}
    return named("HWD", in_ch="in_channels", out_ch="out_channels", **plugin)(case)


def v7_down(case: Any) -> nn.Module:
    pool_first = case.variant.startswith("pool_first")
    names = {"inc": "in_channels", "ouc": "out_channels"}
    return named("V7DownSampling", pool_first=pool_first, **names)(case)


ADAPTERS = {
    "ADown": Adapter(named("ADown", c1="in_channels", c2="out_channels")),
    "DRFD": Adapter(named("DRFD")),
    "HWD": Adapter(hwd),
    "SPDConv": Adapter(named("SPDConv", inc="in_channels", ouc="out_channels")),
    "WaveletPool": Adapter(named("WaveletPool", in_channels=64)),
    "YOLOV7Down": Adapter(v7_down),
    "gcnet": Adapter(gcnet),
    "lawds": Adapter(
        named("LAWDS", in_ch="in_channels", out_ch="out_channels", quadrants=True),
        corrected="weights of the 2x2 cell, not of the quadrants",
    ),
}
