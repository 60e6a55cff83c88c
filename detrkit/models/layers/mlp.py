"""Perceptron heads."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from detrkit.models.layers.activations import get_activation


class MLP(nn.Module):
    """Linear layers with an activation between them. (…, in_channels) -> (…, out_channels).

    Args:
        in_channels, hidden_channels, out_channels: widths.
        num_layers: number of linear layers.
        act: activation between them.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        act: str = "relu",
    ) -> None:
        super().__init__()
        widths = [in_channels, *[hidden_channels] * (num_layers - 1), out_channels]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.act = get_activation(act)

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = self.act(layer(x))
        return last(x)

    def zero_last(self) -> None:
        """The head starts by answering zero."""
        last = cast(nn.Linear, self.layers[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
