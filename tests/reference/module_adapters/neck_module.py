"""Adapters of the family `neck_module`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

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


ADAPTERS = {
    "HyperCompute": Adapter(named("HyperComputeModule", c="in_channels")),
    "HyperACE": Adapter(hyper_ace, fill=fill_hyper_ace),
}
