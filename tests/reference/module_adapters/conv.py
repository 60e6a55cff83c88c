"""Adapters of the family `conv`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detrkit.modules.conv.gconv import GatedConv2d
from detrkit.modules.conv.scconv import crossed
from tests.reference.module_adapters.adapter import Adapter, Build, named


def plugged(name: str, drop: tuple[str, ...] = (), **renames: str) -> Build:
    """As `named`, with the keywords of all variants; plug-ins add batch norm and SiLU."""

    def build(case: Any) -> nn.Module:
        act = "silu" if case.variant.endswith("bn_silu") else None
        arguments = {key: name for key, name in renames.items() if key in case.kwargs}
        return named(name, drop, act=act, **arguments)(case)

    return build


def snake(case: Any) -> nn.Module:
    """With the strip of the other direction, which the authors' class creates and never uses."""
    if case.variant.startswith("three_branch"):
        rename = {"inc": "in_channels", "ouc": "out_channels", "k": "kernel_size"}
        module = named("DySnakeConv", accumulate_ends=False, **rename)(case)
        snakes = list(module.snakes)
    else:
        module = named(
            "DSConv",
            drop=("morph", "if_offset", "device"),
            in_ch="in_channels",
            out_ch="out_channels",
            direction="vertical" if case.kwargs["morph"] else "horizontal",
            accumulate_ends=False,
        )(case)
        snakes = [module]
    for one in snakes:
        sides = one.conv.kernel_size[::-1]
        one.unused = nn.Conv2d(one.conv.in_channels, one.conv.out_channels, sides)
    return module


def shiftwise(case: Any) -> nn.Module:
    if case.variant == "dense_13_5_bn_silu":
        return named("ShiftwiseConv", groups=1, act="silu")(case)
    large = "ShiftwiseConv" if case.kwargs["Decom"] else "ReparamLargeKernelConv"
    return named(large, drop=("stride", "Decom"))(case)


class HardSeparation(nn.Module):
    """The older circulating form of ScConv's first half: a norm by hand, and masks of 0 and 1."""

    def __init__(self, channels: int, groups: int = 16) -> None:
        super().__init__()
        self.groups = groups
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unflatten(1, (self.groups, -1)).flatten(2)
        parts = (parts - parts.mean(2, True)) / (parts.std(2, keepdim=True) + 1e-10)
        norm = parts.view_as(x) * self.gamma + self.beta
        telling = (norm * self.gamma / self.gamma.sum()).sigmoid() >= 0.5
        return crossed(x * telling, x * ~telling)


def scconv(case: Any) -> nn.Module:
    width = next(iter(case.kwargs))  # op_channel or in_channel
    module = named("ScConv", drop=("out_channel",), **{width: "in_channels"})(case)
    if case.variant == "hard_gate_gn16":
        module.spatial = HardSeparation(case.kwargs["in_channel"])
    return module


def gconv(case: Any) -> nn.Module:
    if case.variant.startswith("official_layer"):
        given = {"channels" if k == "dim" else k: v for k, v in case.kwargs.items()}
        return GatedConv2d(**given)
    return named("gConv", dim="in_channels")(case)


ADAPTERS = {
    "dbb": Adapter(named("DiverseBranchBlock", drop=("padding",))),
    "wdbb": Adapter(named("WideDiverseBranchBlock")),
    "deepdbb": Adapter(named("DeepDiverseBranchBlock")),
    "deconv": Adapter(plugged("DEConv", ("ouc",), dim="in_channels", inc="in_channels")),
    "dynamic_snake_conv": Adapter(snake),
    "pconv": Adapter(named("Partial_conv3", drop=("forward",), dim="in_channels")),
    "psconv": Adapter(
        named("PSConv", c1="in_channels", c2="out_channels", k="kernel_size", s="stride")
    ),
    "ShiftwiseConv": Adapter(shiftwise),
    "wtconv2d": Adapter(named("WTConv2d", drop=("out_channels", "bias"))),
    "ScConv": Adapter(scconv),
    "dcnv2": Adapter(plugged("DCNv2")),
    "DilatedReparamConv": Adapter(
        named("DilatedReparamBlock", drop=("deploy", "attempt_use_lk_impl"), channels="in_channels")
    ),
    "gConv": Adapter(gconv),
    "IDWC": Adapter(named("InceptionDWConv2d")),
    "DSA": Adapter(named("DSA", drop=("pad", "stride"), d_model="in_channels")),
    "dcnv3": Adapter(
        plugged(
            "DCNv3",
            ("ouc",),
            channels="in_channels",
            inc="in_channels",
            k="kernel_size",
            g="group",
        )
    ),
    "dcnv4": Adapter(plugged("DCNv4", channels="in_channels")),
    "DynamicConv": Adapter(
        plugged(
            "DynamicConv",
            in_features="in_channels",
            out_features="out_channels",
            c1="in_channels",
            c2="out_channels",
            k="kernel_size",
            s="stride",
        )
    ),
}
