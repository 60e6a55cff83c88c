"""Layers of a deployed detector that compute through oneDNN on CPUs.

They keep weights and names of the layers they replace, and compute as these do wherever oneDNN
does not apply. Under autocast they compute in bf16, from weights that are turned into it once.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import inf
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.affine import Bound
from detrkit.ops import onednn

#: Activations that oneDNN knows, by its names.
_NAMES: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.SiLU: "swish"}


#: Shapes of input whose packed kernels are kept: batches of a service have several. Each kernel is
#: as large as the weights.
_SHAPES = 4


class FusedConv2d(nn.Conv2d):
    """A convolution with the activation behind it. (B, in, H, W) -> (B, out, H', W')."""

    act: nn.Module
    _packed: tuple[tuple[object, Tensor], ...] = ()

    @classmethod
    def of(cls, conv: nn.Conv2d, act: nn.Module) -> FusedConv2d:
        """With the weights of a convolution."""
        fused = cls.__new__(cls)
        fused.__dict__.update(conv.__dict__)
        fused._modules = {"act": act}
        return fused

    def forward(self, x: Tensor) -> Tensor:
        if onednn.usable(x, self.weight):
            activation = activation_of(self.act) or onednn.NO_ACTIVATION
            return onednn.convolution(x, self, self._kernel(x), activation)
        out: Tensor = self.act(self._conv_forward(x, self.weight, self.bias))
        return out

    def _kernel(self, x: Tensor) -> Tensor:
        """The kernel for images of this size and number; those of the latest few are kept."""
        dtype = onednn.computes_in(x) or x.dtype
        key = (x.shape, dtype, *_state_of(self.weight))
        kept = self._packed  # other threads may put theirs there
        for known, kernel in kept:
            if known == key:
                return kernel
        kernel = onednn.packed_kernel(self, x.shape, dtype)
        self._packed = ((key, kernel), *kept[: _SHAPES - 1])
        return kernel

    def __getstate__(self) -> dict[str, Any]:
        # what copies and files hold is the kernel itself
        return {name: value for name, value in self.__dict__.items() if name != "_packed"}


class FusedLinear(nn.Linear):
    """A linear layer. (…, in) -> (…, out)."""

    _cast: tuple[object, Tensor] | None = None

    @classmethod
    def of(cls, linear: nn.Linear) -> FusedLinear:
        """With the weights of a linear layer."""
        fused = cls.__new__(cls)
        fused.__dict__.update(linear.__dict__)
        return fused

    def forward(self, x: Tensor) -> Tensor:
        if onednn.usable(x, self.weight):
            return onednn.product(x, self.weight_for(x), self.bias)
        return F.linear(x, self.weight, self.bias)

    def weight_for(self, x: Tensor) -> Tensor:
        """The weight in the type that this input is computed in."""
        dtype = onednn.computes_in(x) or x.dtype
        if dtype == self.weight.dtype:
            return self.weight
        key = (dtype, *_state_of(self.weight))
        cast = self._cast
        if cast is None or cast[0] != key:
            cast = self._cast = (key, self.weight.to(dtype))
        return cast[1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_cast"}


def activation_of(layer: nn.Module) -> onednn.Activation | None:
    """An activation as oneDNN computes it on the way; None: it has to be a layer of its own."""
    if type(layer) is Bound:
        return onednn.within(*((-inf, layer.bound) if layer.upper else (layer.bound, inf)))
    name = _NAMES.get(type(layer))
    return None if name is None else (name, ())


def _state_of(weight: Tensor) -> tuple[int, int]:
    """Changes when the numbers of a weight do."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def use_onednn(model: nn.Module) -> None:
    """Replaces convolutions, with the activation behind them, and linear layers.

    An activation is known to follow a convolution in a `Sequential`, and in a module that says so
    with `in_a_row`, the names of its layers.
    """
    if not onednn.available():
        return
    for module in list(model.modules()):
        names: Iterable[str] = getattr(module, "in_a_row", ())
        if isinstance(module, nn.Sequential):
            names = module._modules
        _fuse(module, [n for n in names if not _is_nothing(module._modules.get(n))])
    for module in list(model.modules()):
        for name, layer in list(module._modules.items()):
            if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and _is_plain(layer):
                module._modules[name] = FusedConv2d.of(layer, nn.Identity())
            elif type(layer) is nn.Linear:
                module._modules[name] = FusedLinear.of(layer)


def _fuse(module: nn.Module, names: list[str]) -> None:
    layers = module._modules
    for name, following in pairwise(names):
        conv, act = layers[name], layers[following]
        if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros" or not _is_plain(conv):
            continue
        if act is not None and activation_of(act):
            layers[name], layers[following] = FusedConv2d.of(conv, act), nn.Identity()


def _is_plain(conv: nn.Conv2d) -> bool:
    return not isinstance(conv.padding, str) and not conv._forward_hooks


def _is_nothing(layer: nn.Module | None) -> bool:
    return layer is None or isinstance(layer, nn.Identity)
