"""Adapters of the family `stem`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from detrkit.layers.conv import ConvNormAct
from tests.reference.module_adapters.adapter import Adapter, filled_by_shape, named


def log_stem(case: Any) -> nn.Module:
    """The plug-in's form: SiLU, without biases before norms, an activation more."""
    drop = ("act_layer", "norm_layer")
    names = {"in_chans": "in_channels", "stem_dim": "out_channels"}
    if not case.variant.startswith("silu"):
        return named("LoGStem", drop, **names)(case)
    module = named("LoGStem", act="silu", **names)(case)
    half = case.kwargs["stem_dim"] // 2
    module.down[1] = ConvNormAct(half, half, 3, 2, groups=half, act="silu")
    module.gaussian.extra = nn.Sequential(
        ConvNormAct(half, 64, 1, act="silu"),
        ConvNormAct(64, 64, 3, act="silu"),
        ConvNormAct(64, half, 1),
    )
    return module


def filled_but_kept(module: nn.Module, case: Any) -> None:
    """Filters that learn keep their start where the case says so."""
    shapes = [tuple(shape) for shape in case.constants_kept]
    kept = {n: p.detach().clone() for n, p in module.named_parameters() if p.shape in shapes}
    filled_by_shape(module, case)
    with torch.no_grad():
        module.load_state_dict(kept, strict=False)


ADAPTERS = {
    "LoG": Adapter(log_stem, fill=filled_but_kept, corrected="LoG kernel over its absolute sum"),
    "SRFD": Adapter(named("SRFD")),
}
