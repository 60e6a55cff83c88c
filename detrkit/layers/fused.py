"""Layers of a deployed detector that compute through oneDNN on CPUs.

They keep weights and names of the layers they replace, and compute as these do wherever oneDNN
does not apply.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.ops import onednn


class FusedConv2d(nn.Conv2d):
    """A convolution with the activation behind it. (B, in, H, W) -> (B, out, H', W')."""

    act: nn.Module
    _packed: tuple[object, Tensor] | None = None

    @classmethod
    def of(cls, conv: nn.Conv2d, act: nn.Module) -> FusedConv2d:
        """With the weights of a convolution."""
        fused = cls.__new__(cls)
        fused.__dict__.update(conv.__dict__)
        fused._modules = {"act": act}
        return fused

    def forward(self, x: Tensor) -> Tensor:
        if onednn.usable(x, self.weight):
            name = onednn.activation_name(self.act) or "none"
            return onednn.convolution(x, self, name, self._kernel(x))
        out: Tensor = self.act(self._conv_forward(x, self.weight, self.bias))
        return out

    def _kernel(self, x: Tensor) -> Tensor:
        """The kernel for images of this size: that of the latest call, if it is the same."""
        weight = self.weight
        version = 0 if weight.is_inference() else weight._version
        key = (x.shape, weight.data_ptr(), version)
        packed = self._packed  # other threads may put theirs there
        if packed is None or packed[0] != key:
            packed = self._packed = (key, onednn.packed_kernel(self, x.shape))
        return packed[1]

    def __getstate__(self) -> dict[str, Any]:
        # what copies and files hold is the kernel itself
        return {name: value for name, value in self.__dict__.items() if name != "_packed"}


class FusedLinear(nn.Linear):
    """A linear layer. (…, in) -> (…, out)."""

    @classmethod
    def of(cls, linear: nn.Linear) -> FusedLinear:
        """With the weights of a linear layer."""
        fused = cls.__new__(cls)
        fused.__dict__.update(linear.__dict__)
        return fused

    def forward(self, x: Tensor) -> Tensor:
        if onednn.usable(x, self.weight):
            return onednn.product(x, self)
        return F.linear(x, self.weight, self.bias)


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
        if act is not None and onednn.activation_name(act):
            layers[name], layers[following] = FusedConv2d.of(conv, act), nn.Identity()


def _is_plain(conv: nn.Conv2d) -> bool:
    return not isinstance(conv.padding, str) and not conv._forward_hooks


def _is_nothing(layer: nn.Module | None) -> bool:
    return layer is None or isinstance(layer, nn.Identity)
