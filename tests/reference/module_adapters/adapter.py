"""What an adapter is, and the ones that suit most modules.

ADAPTERS = {
    "SimAM": Adapter(named("SimAM", in_channels=64)),
    "SEAM": Adapter(named("SEAM", c1="in_channels", n="depth"), tokens),
}
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.registry import MODULES
from tests.conftest import reference_folder

Build = Callable[[Any], nn.Module]
Run = Callable[[nn.Module, Any, list[Tensor]], list[Tensor]]
Fill = Callable[[nn.Module, Any], None]


def by_variant(**builds: Build) -> Build:
    """The build whose name begins the case's variant; `other` for the rest."""

    def build(case: Any) -> nn.Module:
        chosen = [name for name in builds if case.variant.startswith(name)]
        return builds[max(chosen, key=len, default="other")](case)

    return build


def tokens_or_maps(module: nn.Module, case: Any, inputs: list[Tensor]) -> list[Tensor]:
    """Some variants of the reference take tokens, others maps."""
    run = tokens if inputs[0].dim() == 3 else called
    return run(module, case, inputs)


def called(module: nn.Module, case: Any, tensors: list[Tensor]) -> list[Tensor]:
    """One map, or a list of several."""
    return listed(module(tensors[0] if len(tensors) == 1 else tensors))


def tokens(module: nn.Module, case: Any, tensors: list[Tensor]) -> list[Tensor]:
    """The reference takes tokens (B, H·W, C) and returns them; ours takes maps."""
    height, width = grid(case)
    maps = [x.transpose(1, 2).unflatten(2, (height, width)) for x in tensors]
    return [y.flatten(2).transpose(1, 2) for y in called(module, case, maps)]


def grid(case: Any) -> tuple[int, int]:
    """(H, W) of a case with tokens: 20 rows, as its call says."""
    count = case.inputs[0][0][1]
    rows = re.search(r"\bH=(\d+)|\((\d+),", case.call)
    height = int(next(filter(None, rows.groups()))) if rows else int(count**0.5)
    return height, count // height


def listed(output: Any) -> list[Tensor]:
    return list(output) if isinstance(output, (list, tuple)) else [output]


def filled_by_shape(module: nn.Module, case: Any) -> None:
    """Parameters and statistics of norms from their shapes; constants keep their values."""
    sys.path.insert(0, str(reference_folder() / "parity"))
    from fill import fill_by_shape  # type: ignore[import-not-found]

    statistics = ("running_mean", "running_var")
    constants = {
        name: value.clone()
        for name, value in module.named_buffers()
        if not name.endswith(statistics)
    }
    constants |= {
        n: p.detach().clone() for n, p in module.named_parameters() if not p.requires_grad
    }
    fill_by_shape(module)
    module.load_state_dict(constants, strict=False)


@dataclass(frozen=True)
class Adapter:
    """Between the cases of one module and ours.

    Attributes:
        build: our module for a case.
        run: calls it as the reference was called.
        fill: gives it the reference's weights.
        corrected: where the registered module departs from the published code on purpose; the
            adapter then builds the published form of the same parts. Empty: nowhere.
    """

    build: Build
    run: Run = called
    fill: Fill = filled_by_shape
    corrected: str = ""


class PixelLinear(nn.Linear):
    """A 1x1 convolution whose weight has the shape of a linear layer's: (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SampleNorm(nn.Module):
    """Over (C, H, W) of each image, with a scale and a shift per channel of shape (C, 1, 1)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[1:], eps=self.eps) * self.weight + self.bias


def with_linear(build: Build, *names: str) -> Build:
    """What `build` builds, with linear layers in the place of its 1x1 convolutions `names`."""

    def built(case: Any) -> nn.Module:
        module = build(case)
        for name in names:
            conv = module.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            linear = PixelLinear(conv.in_channels, conv.out_channels, conv.bias is not None)
            module.set_submodule(name, linear)
        return module

    return built


def named(name: str, drop: tuple[str, ...] = (), **arguments: Any) -> Build:
    """Builds the component `name` from the keywords of a case.

    Args:
        name: in the registry.
        drop: keywords of the reference that have no effect.
        **arguments: keyword of the reference -> ours, as text, where a case has it; what is no
            keyword of the case, or dropped, but a parameter of ours, is an argument.
    """

    def build(case: Any) -> nn.Module:
        given = {key: value for key, value in case.kwargs.items() if key not in drop}
        renames = {k: v for k, v in arguments.items() if k in given and isinstance(v, str)}
        parameters = MODULES.get(name).parameters
        fixed = {
            k: v
            for k, v in arguments.items()
            if k not in renames and k not in given and k in parameters
        }
        ours = {renames.get(key, key): value for key, value in given.items()}
        torch.manual_seed(0)
        module: nn.Module = MODULES.create(name, **ours, **fixed)
        return module

    return build
