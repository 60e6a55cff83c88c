"""Squeeze and excitation: a map's means decide how much of each channel stays."""

from __future__ import annotations

from torch import Tensor, nn

from detrkit.layers.activations import get_activation


class SqueezeExcite(nn.Module):
    """x · sigmoid(W2 act(W1 mean x)), with biases. (B, C, H, W) -> (B, C, H, W).

    Hu et al., CVPR 2018, arXiv:1709.01507, eq. 2–4.

    Args:
        channels: C.
        hidden_channels: between the layers.
        act: between them.
    """

    def __init__(self, channels: int, hidden_channels: int, act: str = "relu") -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden_channels, 1),
            get_activation(act),
            nn.Conv2d(hidden_channels, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)
