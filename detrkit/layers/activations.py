"""Activations by the names that configurations use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigError, did_you_mean


class StarReLU(nn.Module):
    """s · relu(x)² + b with learned scalars s and b. Any shape.

    MetaFormer Baselines for Vision, Yu et al., TPAMI 2024, arXiv:2210.13452.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.relu().square() + self.bias


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "mish": nn.Mish,
    "star_relu": StarReLU,
    "identity": nn.Identity,
}


def get_activation(act: str | nn.Module | None, inplace: bool = False) -> nn.Module:
    """A new activation layer.

    Args:
        act: a name (case does not matter), a ready layer (returned as it is), or None for none.
        inplace: overwrite the input, where the activation can. For activations behind a batch
            norm, whose gradient needs its input and not its output.

    Raises:
        ConfigError: no activation has this name.
    """
    if act is None:
        return nn.Identity()
    if isinstance(act, nn.Module):
        return act
    if act.lower() not in _ACTIVATIONS:
        raise ConfigError(
            f"unknown activation `{act}`{did_you_mean(act, _ACTIVATIONS)}",
            hint=f"known: {', '.join(_ACTIVATIONS)}",
        )
    activation = _ACTIVATIONS[act.lower()]()
    # of every attribute PyTorch's stubs say that it is a tensor or a module
    if inplace and isinstance(getattr(activation, "inplace", None), bool):
        activation.inplace = True  # type: ignore[assignment]
    return activation
