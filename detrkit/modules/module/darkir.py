"""DarkIR: Robust Low-Light Image Restoration. Feijoo et al., CVPR 2025, arXiv:2412.13443.

z = gate(sum over d of DW3×3 of dilation d (W LN(x)));   y = x + β · W (z · V mean z)
EBlock:   out = y + γ · y · IFFT(magnitude' , old phase),  magnitude' = W2 lrelu(W1 |FFT(LN(y))|)
DBlock:   out = y + γ · W4 gate(W3 LN(y))
gate([a, b]) = a · b                                            after NAFNet, without activations
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.layers.norm import LayerNorm2d
from detrkit.ops.spectrum import irfft2, rfft2
from detrkit.registry import MODULES, Traits

#: Magnitudes below have no phase: its slope would be 1 / magnitude.
_SILENT = 1e-8


def gate(x: Tensor) -> Tensor:
    """The product of both halves of the channels: (B, 2C, H, W) -> (B, C, H, W)."""
    a, b = x.chunk(2, dim=1)
    return a * b


class GatedDilations(nn.Module):
    """The first half of both blocks without its shortcut. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        width: of the depthwise convolutions, even.
        dilations: of them, one convolution each.
        before, after: further convolutions around the first 1×1.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        dilations: Sequence[int],
        before: nn.Module | None = None,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"expansion must give an even number of channels, got {width}")
        self.enter = nn.Sequential(
            LayerNorm2d(channels),
            before or nn.Identity(),
            nn.Conv2d(channels, width, 1),
            after or nn.Identity(),
        )
        self.branches = nn.ModuleList(depthwise(width, 3, dilation=d) for d in dilations)
        self.channel = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width // 2, width // 2, 1))
        self.leave = nn.Conv2d(width // 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = self.enter(x)
        z = gate(torch.stack([branch(u) for branch in self.branches]).sum(0))
        return self.leave(z * self.channel(z))


class FrequencyMLP(nn.Module):
    """Learns new magnitudes for the old phases of a map. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(2 * channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            spectrum = rfft2(x)
            magnitude = spectrum.abs()
            phase = torch.where(
                magnitude > _SILENT,
                spectrum / magnitude.clamp_min(_SILENT),
                torch.ones_like(spectrum),
            )
            return irfft2(self.layers(magnitude) * phase, x.shape[2:]).to(x.dtype)


def _zeros(channels: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(1, channels, 1, 1))


@MODULES.register(
    family="module",
    paper="arXiv:2412.13443",
    venue="CVPR 2025",
    example={"in_channels": 16},
    traits=Traits(onnx="ONNX knows no phase of a Fourier transform", float32="Fourier transforms"),
)
class EBlock(nn.Module):
    """DarkIR's encoder block: dilations, then magnitudes. (B, C, H, W) -> (B, C, H, W).

    An untrained block changes nothing.

    Args:
        in_channels: C.
        expansion: width of the dilated convolutions, relative to C.
        dilations: of the branches.
        extra: a depthwise convolution before them, as in the authors' network.

    Raises:
        ValueError: `expansion` gives an odd width.
    """

    def __init__(
        self,
        in_channels: int,
        expansion: int = 2,
        dilations: Sequence[int] = (1,),
        extra: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        before = depthwise(c, 3) if extra else None
        self.place = GatedDilations(c, c * expansion, dilations, before=before)
        self.norm = LayerNorm2d(c)
        self.frequency = FrequencyMLP(c)
        self.beta, self.gamma = _zeros(c), _zeros(c)

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.beta * self.place(x)
        return y + self.gamma * (y * self.frequency(self.norm(y)))


@MODULES.register(
    family="module",
    paper="arXiv:2412.13443",
    venue="CVPR 2025",
    example={"in_channels": 16, "dilations": (1, 4, 9)},
    traits=Traits(),
)
class DBlock(nn.Module):
    """DarkIR's decoder block: dilations, then gated channels. (B, C, H, W) -> (B, C, H, W).

    An untrained block changes nothing.

    Args:
        in_channels: C.
        expansion: width of the dilated convolutions, relative to C.
        mlp_ratio: width of the feed-forward part before its gate, relative to C.
        dilations: of the branches; the authors' network has 1, 4, 9.
        extra: a 3×3 convolution of pairs of channels before them, as in the authors' network.

    Raises:
        ValueError: `expansion` or `mlp_ratio` gives an odd width.
    """

    def __init__(
        self,
        in_channels: int,
        expansion: int = 2,
        mlp_ratio: int = 2,
        dilations: Sequence[int] = (1, 4, 9),
        extra: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        width, hidden = c * expansion, c * mlp_ratio
        if hidden < 2 or hidden % 2:
            raise ValueError(f"mlp_ratio must give an even number of channels, got {hidden}")
        after = nn.Conv2d(width, width, 3, padding=1, groups=c) if extra else None
        self.place = GatedDilations(c, width, dilations, after=after)
        self.norm = LayerNorm2d(c)
        self.fc1 = nn.Conv2d(c, hidden, 1)
        self.fc2 = nn.Conv2d(hidden // 2, c, 1)
        self.beta, self.gamma = _zeros(c), _zeros(c)

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.beta * self.place(x)
        return y + self.gamma * self.fc2(gate(self.fc1(self.norm(y))))
