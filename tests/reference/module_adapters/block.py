"""Adapters of the family `block`."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference.module_adapters.adapter import Adapter, Build, called, named, tokens

_CSP = {
    "c1": "in_channels",
    "c2": "out_channels",
    "n": "num_blocks",
    "g": "groups",
    "e": "expansion",
}


def shell(name: str) -> Build:
    """The generic copies have narrower bottlenecks, or another inner module."""

    def build(case: Any) -> nn.Module:
        fixed: dict[str, Any] = {}
        if case.variant.startswith("generic"):
            fixed = {"inner_expansion": 0.5, "shortcut": True}
        if "module" in case.kwargs:
            fixed["inner"] = {"type": "GSA", "num_heads": 8}
        return named(name, drop=("module", "selfatt"), **_CSP, **fixed)(case)

    return build


class PixelLinear(nn.Linear):
    """A linear layer of the reference's shape in place of a 1×1 convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


def mona(case: Any) -> nn.Module:
    """The official form has linear layers and flat gammas."""
    module = named("Mona", in_dim="in_channels")(case)
    if case.variant == "official":
        width = case.kwargs["in_dim"]
        module.down, module.up = PixelLinear(width, 64), PixelLinear(64, width)
        for name in ("gamma", "gamma_x"):
            flat = nn.Parameter(getattr(module, name).detach().flatten())
            setattr(module, name, flat)
    return module


def run_mona(module: nn.Module, case: Any, tensors: list[Tensor]) -> list[Tensor]:
    if case.variant != "official":
        return called(module, case, tensors)
    gammas = {name: getattr(module, name) for name in ("gamma", "gamma_x")}
    for name, flat in gammas.items():
        setattr(module, name, nn.Parameter(flat.detach()[:, None, None]))
    found = tokens(module, case, tensors)
    for name, flat in gammas.items():
        setattr(module, name, flat)
    return found


ADAPTERS = {
    "C3": Adapter(shell("C3")),
    "C2f": Adapter(shell("C2f")),
    "C3k2": Adapter(shell("C3k2")),
    "rgcspelan": Adapter(named("RGCSPELAN", **_CSP)),
    "Mona": Adapter(mona, run_mona),
    "MANet": Adapter(named("MANet", **_CSP, p="separable_expansion")),
}
