"""Perceptron heads and feed-forward nets."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.activations import get_activation


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


class SwiGLUFFN(nn.Module):
    """(silu(x·W1) * x·W2)·W3, with biases. (…, in_features) -> (…, out_features).

    Shazeer, arXiv:2002.05202, eq. 6. W1 and W2 are one layer, named as in DINOv2.

    Args:
        in_features, hidden_features, out_features: widths.
    """

    def __init__(self, in_features: int, hidden_features: int, out_features: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(in_features, 2 * hidden_features)
        self.w3 = nn.Linear(hidden_features, out_features)
        for layer in (self.w12, self.w3):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)
