"""A gate of the frequencies of a map."""

from __future__ import annotations

from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct


class SpectralGate(nn.Module):
    """sigmoid(conv(relu(bn(conv(Re F))))), 1x1 convolutions. (B, C, H, W) -> (B, C, H, W).

    Frequency-Spatial Entanglement Learning for Camouflaged Object Detection, Sun et al.,
    ECCV 2024, arXiv:2409.01686.

    Args:
        channels: C.
        hidden_channels: between the convolutions.
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvNormAct(channels, hidden_channels, 1, bias=True, act="relu"),
            nn.Conv2d(hidden_channels, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, real: Tensor) -> Tensor:
        return self.layers(real)
