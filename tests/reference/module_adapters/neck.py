"""Adapters of the family `neck`."""

from __future__ import annotations

from typing import Any

from torch import nn

from detrkit.models.encoders.fdpn import FDPN
from tests.reference.module_adapters.adapter import Adapter, named


def fdpn(case: Any) -> nn.Module:
    if case.variant.startswith("FocusFeature"):
        return named("FocusFeature", inc="in_channels", e="expansion")(case)
    given = {k: v for k, v in case.kwargs.items() if k != "use_encoder_idx"}
    given["kernel_sizes"] = given.pop("fdpn_ks")
    return FDPN(**given)


ADAPTERS = {"FDPN": Adapter(fdpn)}
