"""Adapters of the family `neck_module`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from detrkit.modules.neck_module.hs_fpn import HFP, SDP
from tests.reference.module_adapters.adapter import Adapter, filled_by_shape, named


def hyper_ace(case: Any) -> nn.Module:
    kind = case.variant.split(" ")[0]
    kwargs = case.kwargs
    if kind == "HyperACE":
        width = kwargs["c1"]
        widths = [width, width, 2 * width if kwargs["channel_adjust"] else width]
        return named(
            "HyperACE",
            drop=("c1", "channel_adjust"),
            in_channels=widths,
            c2="out_channels",
            n="num_blocks",
            e1="expansion",
            e2="inner_expansion",
        )(case)
    if kind == "FullPAD_Tunnel":
        module: nn.Module = named("FullPADTunnel", in_channels=[64, 64])(case)
        return module
    return named(
        kind,
        drop=("k1", "k2", "d2"),
        c1="in_channels",
        c2="out_channels",
        n="num_blocks",
        e="expansion",
        channel_adjust="widen",
        kernels=(kwargs.get("k1", 3), kwargs.get("k2", 7)),
    )(case)


def fill_hyper_ace(module: nn.Module, case: Any) -> None:
    filled_by_shape(module, case)
    if "FullPAD" in case.variant:
        with torch.no_grad():
            module.gate.fill_(0.5)


def gold_yolo(case: Any) -> nn.Module:
    kind, kwargs = case.variant.split(" ")[0], case.kwargs
    widths = [shape[1] for shape, _ in case.inputs]
    if kind == "IFM":
        return named(
            kind, inc="in_channels", ouc="out_channels", embed_dim_p="hidden_channels",
            fuse_block_num="num_blocks", out_channels=sum(kwargs["ouc"]), drop=("ouc",),
        )(case)  # fmt: skip
    if kind == "InjectionMultiSum_Auto_pool":
        return named(
            kind, drop=("inp",), in_channels=widths, oup="out_channels",
            global_inp="global_channels", flag="part",
        )(case)  # fmt: skip
    if kind == "TopBasicLayer":
        return named(
            kind, drop=("ouc_list",), embedding_dim="in_channels", block_num="num_blocks",
            out_channels=sum(kwargs["ouc_list"]),
        )(case)  # fmt: skip
    return named(
        kind, drop=("inc", "pool_mode", "in_channel_list"), in_channels=widths,
        ouc="out_channels",
    )(case)  # fmt: skip


def hs_fpn(case: Any) -> nn.Module:
    kind, kwargs = case.variant.split(" ")[0], case.kwargs
    widths = [shape[1] for shape, _ in case.inputs]
    if kind == "HFP":
        ratio = kwargs["ratio"] if kwargs["isdct"] else None
        module = HFP(kwargs["in_channels"], ratio, kwargs["patch"])
    else:
        module = SDP(widths, kwargs["dim"], kwargs["patch_size"])
    return toolbox(module) if "paper" in case.variant else module


def toolbox(module: nn.Module) -> nn.Module:
    """The form of the detection toolbox: ReLU behind every convolution, other biases."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Sequential) and isinstance(child[0], nn.Conv2d):
            child.insert(1, nn.ReLU())
        elif isinstance(child, nn.Conv2d):
            groups = 1 if name == "fuse" else child.groups
            conv = nn.Conv2d(
                child.in_channels, child.out_channels, child.kernel_size, padding=child.padding,
                groups=groups, bias=name == "fuse",
            )  # fmt: skip
            setattr(module, name, nn.Sequential(conv, nn.ReLU()))
    return module


ADAPTERS = {
    "HyperCompute": Adapter(named("HyperComputeModule", c="in_channels")),
    "HS_FPN": Adapter(hs_fpn),
    "GoldYOLO": Adapter(gold_yolo),
    "HyperACE": Adapter(hyper_ace, fill=fill_hyper_ace),
}
