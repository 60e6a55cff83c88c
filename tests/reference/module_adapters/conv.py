"""Adapters of the family `conv`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detrkit.modules.conv.fadc import AdaptiveDilatedConv, FrequencySelection
from detrkit.modules.conv.gconv import GatedConv2d
from detrkit.modules.conv.scconv import crossed
from tests.reference.module_adapters.adapter import Adapter, Build, filled_by_shape, named


def plugged(name: str, drop: tuple[str, ...] = (), **renames: str) -> Build:
    """As `named`; the plug-in's variants have batch norm and SiLU behind the bare layer."""

    def build(case: Any) -> nn.Module:
        act = "silu" if case.variant.endswith("bn_silu") else None
        return named(name, drop, act=act, **renames)(case)

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


class OlderSelection(FrequencySelection):
    """The earlier form: the lowest band has a weight too, without a bound.

    Its low-pass filters transform the real part of the spectrum back, which is that of the even
    part of the map. The sheet does not say so: it was found by solving for the filter that gives
    the published outputs. On odd sides only the mean stays below the last band, which is even.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, (3, 5, 7, 9))
        self.lowest = nn.Conv2d(channels, 1, 3, padding=1)

    def bands(self, x: Tensor) -> list[Tensor]:
        even = (x + x.flip((2, 3)).roll((1, 1), (2, 3))) / 2
        highest, *others = super().bands(even)
        return [x - even + highest, *others]

    def forward(self, x: Tensor) -> Tensor:
        low = self.bands(x)[-1]
        return super().forward(x) - low + self.lowest(x) * low


class OlderDilatedConv(AdaptiveDilatedConv):
    """The earlier form: one kernel, zeros around, a rate that can die."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, epsilon=0.0)
        self.select = OlderSelection(channels)
        self.border = "constant"
        del self.low_factors, self.high_factors

    def kernels(self, x: Tensor) -> Tensor:
        return self.weight.expand(x.shape[0], -1, -1, -1, -1)

    def rates(self, padded: Tensor) -> Tensor:
        return self.rate(padded).relu() * self.dilation


def fadc(case: Any) -> nn.Module:
    if case.variant.startswith("k3_no_adakern"):
        return OlderDilatedConv(case.kwargs["in_channels"])
    return named("AdaptiveDilatedConv", drop=("kernel_size", "padding"))(case)


def smpconv(case: Any) -> nn.Module:
    if "SMPCNN" in case.variant:
        return named("SMPCNN", drop=("out_channels", "stride", "groups"))(case)
    return named("SMPConv", drop=("stride", "padding", "groups"), planes="in_channels")(case)


def filled_with_positive_radii(module: nn.Module, case: Any) -> None:
    filled_by_shape(module, case)
    radius = module.get_parameter("smp.radius" if "SMPCNN" in case.variant else "radius")
    with torch.no_grad():
        radius.abs_().mul_(0.5).add_(0.3)


def fourier_conv(case: Any) -> nn.Module:
    if "inc" in case.kwargs:
        return named("FourierConv", inc="in_channels", ouc="out_channels")(case)
    size = (case.kwargs["num_rows"], case.kwargs["num_cols"])
    drop = ("output_chs", "num_rows", "num_cols")
    return named("DeepSparse", drop, input_chs="in_channels", size=size)(case)


def sfs_conv(case: Any) -> nn.Module:
    """With the filters as published: reshaped from (3, 3, in, out), not transposed."""
    module = named("SFS_Conv")(case)
    for name, buffer in module.named_buffers():
        if name.endswith(".filter"):
            out, width = buffer.shape[:2]
            plain = buffer[0, 0, :, :, None, None].expand(3, 3, width, out)
            buffer.copy_(plain.reshape(out, width, 3, 3))
    return module


def converse(case: Any) -> nn.Module:
    name = "Converse2D_Up" if case.module == "Converse2D_Up" else "Converse2D"
    act = "gelu" if case.variant.endswith("gelu") else None
    return named(name, drop=("out_channels",), act=act)(case)


def conv_attn(case: Any) -> nn.Module:
    if "pdim" in case.kwargs:
        return named("ConvAttn", dim="in_channels", pdim="partial_channels")(case)
    return named("ConvAttn", drop=("dim",), inc_dim="in_channels")(case)


ADAPTERS = {
    "dbb": Adapter(named("DiverseBranchBlock", drop=("padding",))),
    "wdbb": Adapter(named("WideDiverseBranchBlock")),
    "deepdbb": Adapter(named("DeepDiverseBranchBlock")),
    "deconv": Adapter(plugged("DEConv", ("ouc",), dim="in_channels", inc="in_channels")),
    "dynamic_snake_conv": Adapter(
        snake, corrected="ends accumulate and learn; each image samples itself"
    ),
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
    "FDConv": Adapter(
        named("FDConv", drop=("padding",), mask_grid=64),
        corrected="masks of the map's own size, not stretched ones",
    ),
    "FADC": Adapter(fadc),
    "SMPConv": Adapter(smpconv, fill=filled_with_positive_radii),
    "FourierConv": Adapter(fourier_conv),
    "SFSConv": Adapter(
        sfs_conv,
        corrected="Fourier filters of every pair of channels; Gabor angles in degrees; dropout",
    ),
    "MBRConv": Adapter(lambda case: named(f"MBRConv{case.variant[1]}")(case)),
    "ConvAttn": Adapter(conv_attn),
    "Converse2D": Adapter(converse),
}
