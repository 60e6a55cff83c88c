"""Adapters of the family `mamba`."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.reference.module_adapters.adapter import Adapter, named, with_linear


def ss2d(case: Any) -> nn.Module:
    assert case.kwargs.get("dt_rank", "auto") == "auto"
    build = named("SS2D", drop=("dt_rank", "forward_type"), d_model="in_channels")
    if case.kwargs.get("ssm_rank_ratio", 2.0) < case.kwargs.get("ssm_ratio", 2.0):
        build = with_linear(build, "up")
    return build(case)


ADAPTERS = {
    "SS2D": Adapter(ss2d),
    "VSSD": Adapter(named("VMAMBA2Block", drop=("linear_attn_duality",), dim="in_channels")),
}
