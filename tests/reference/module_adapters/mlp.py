"""Adapters of the family `mlp`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from tests.reference.module_adapters.adapter import (
    Adapter,
    Build,
    SampleNorm,
    by_variant,
    named,
    tokens_or_maps,
    with_linear,
)

WIDTHS = {
    "in_features": "in_channels",
    "hidden_features": "hidden_channels",
    "out_features": "out_channels",
}


def expanded(name: str, **arguments: Any) -> Build:
    """From `dim` and a factor of the hidden width."""

    def build(case: Any) -> nn.Module:
        kwargs = case.kwargs
        factor = "ffn_expansion_factor" if "ffn_expansion_factor" in kwargs else "expansion"
        hidden = int(kwargs["dim"] * kwargs[factor])
        make = named(name, drop=(factor,), dim="in_channels", hidden_channels=hidden, **arguments)
        return make(case)

    return build


class Shortcut(nn.Module):
    """The copies' feed-forward net with a residual of its own."""

    def __init__(self, net: nn.Module, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.net = net
        same = in_channels == out_channels
        self.shortcut = (
            nn.Identity() if same else ConvNormAct(in_channels, out_channels, 1, act="silu")
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.net(x)


def with_shortcut(case: Any) -> nn.Module:
    net = named("ConvolutionalGLU", **WIDTHS)(case)
    return Shortcut(net, case.kwargs["in_features"], case.kwargs["out_features"])


def dffn_of_copies(case: Any) -> nn.Module:
    module: Any = named("DFFN", **WIDTHS)(case)
    module.norm = SampleNorm(case.kwargs["hidden_features"] // 2)
    return module  # type: ignore[no-any-return]


def sefn(case: Any) -> nn.Module:
    dim, factor = case.kwargs["dim"], case.kwargs["ffn_expansion_factor"]
    return named(
        "SEFN",
        drop=("dim", "ffn_expansion_factor"),
        in_channels=[dim, dim],
        hidden_channels=int(dim * factor),
    )(case)


def kan(case: Any) -> nn.Module:
    denominator = "kernel" if case.variant.startswith("official") else "paper"
    fixed = {"denominator": denominator, **WIDTHS}
    return with_linear(named("KAN", **fixed), "fc1", "fc2")(case)


ADAPTERS = {
    "ConvolutionalGLU": Adapter(
        by_variant(
            official=with_linear(named("ConvolutionalGLU", **WIDTHS), "fc1", "fc2"),
            fork_residual=with_shortcut,
            other=named("ConvolutionalGLU", **WIDTHS),
        ),
        tokens_or_maps,
        corrected="no shortcut of its own, as in the paper",
    ),
    "DFFN": Adapter(
        by_variant(
            official=with_linear(named("DFFN", **WIDTHS), "fc1", "fc2"), other=dffn_of_copies
        ),
        tokens_or_maps,
        corrected="the norm of each pixel, as the authors",
    ),
    "FMFFN": Adapter(
        by_variant(
            official=with_linear(expanded("FMFFN", window_size_fm="window_size"), "fc1", "fc2"),
            other=named("FMFFN", **WIDTHS),
        ),
        tokens_or_maps,
    ),
    "FRFN": Adapter(
        by_variant(
            official=with_linear(
                named("FRFN", dim="in_channels", hidden_dim="hidden_channels"), "fc1", "fc2"
            ),
            other=named("FRFN", **WIDTHS),
        ),
        tokens_or_maps,
    ),
    "EFFN": Adapter(named("EFFN", drop=("ffn_expansion_factor",), dim="in_channels")),
    "SEFN": Adapter(sefn),
    "KAN": Adapter(kan, tokens_or_maps, corrected="the paper's denominator"),
    "EDFFN": Adapter(expanded("EDFFN")),
}
