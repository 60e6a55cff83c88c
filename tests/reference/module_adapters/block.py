"""Adapters of the family `block`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from detrkit.layers.activations import StarReLU
from detrkit.layers.norm import LayerNorm2d
from detrkit.modules.block.metaformer import StarMlp
from detrkit.registry import MODULES
from tests.reference.module_adapters.adapter import (
    Adapter,
    Build,
    PixelLinear,
    SampleNorm,
    called,
    named,
    tokens,
)

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


def metaformer(case: Any) -> nn.Module:
    """The combinations of the copies, and the official block with its separable mixer."""
    kwargs = case.kwargs
    width = kwargs.get("in_dim", kwargs["dim"])
    arguments: dict[str, Any] = {"in_channels": width, "out_channels": kwargs["dim"]}
    if kwargs.get("token_mixer", "").startswith("GSA"):
        arguments["mixer"] = {"type": "GSA", "num_heads": 8}
    if kwargs.get("mlp", "").startswith("ConvolutionalGLU"):
        arguments["mlp"] = "ConvolutionalGLU"
    if "SEFN" in case.module or "mlp_ratio" in kwargs:
        arguments["mlp_ratio"] = kwargs["mlp_ratio"]
    if case.variant.startswith("official"):
        arguments["shortcut_scale"] = kwargs["res_scale_init_value"]
    module: nn.Module = MODULES.create(case.module, **arguments)
    if case.variant.startswith("official"):
        make_official(module, kwargs["dim"])
        return module
    for residual in module.sums:
        residual.norm = SampleNorm(kwargs["dim"])
    if isinstance(module.mlp, StarMlp):  # there with 1×1 convolutions
        width, hidden = kwargs["dim"], 4 * kwargs["dim"]
        module.mlp[0] = nn.Conv2d(width, hidden, 1, bias=False)
        module.mlp[2] = nn.Conv2d(hidden, width, 1, bias=False)
    return module


class SeparableMixer(nn.Module):
    """The official mixer SepConv: pointwise, StarReLU, depthwise 7×7, pointwise, without biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = PixelLinear(channels, 2 * channels, bias=False)
        self.act = StarReLU()
        self.depthwise = nn.Conv2d(
            2 * channels, 2 * channels, 7, padding=3, groups=2 * channels, bias=False
        )
        self.leave = PixelLinear(2 * channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.depthwise(self.act(self.enter(x))))


def make_official(module: nn.Module, channels: int) -> None:
    module.mixer = SeparableMixer(channels)
    for residual in module.sums:
        residual.norm = LayerNorm2d(channels, eps=1e-6, bias=False)


ADAPTERS = {
    **{
        name: Adapter(metaformer)
        for name in (
            "MetaFormer_Block",
            "MetaFormer_Mona",
            "MetaFormer_SEFN",
            "MetaFormer_Mona_SEFN",
        )
    },
    "C3": Adapter(shell("C3")),
    "C2f": Adapter(shell("C2f")),
    "C3k2": Adapter(shell("C3k2")),
    "RepHMS": Adapter(
        named(
            "RepHMS",
            width="num_slices",
            depth_expansion="unit_expansion",
            kersize="kernel_size",
        )
    ),
    "rgcspelan": Adapter(named("RGCSPELAN", **_CSP)),
    "Mona": Adapter(mona, run_mona),
    "MANet": Adapter(named("MANet", **_CSP, p="separable_expansion")),
}
