"""Frequency-Spatial Entanglement Learning for Camouflaged Object Detection (FSEL). Sun et al.,
ECCV 2024, arXiv:2409.01686.

frequency: F = fft2(x),  A = softmax(t F̂ F̂ᵀ) of a head's channels, for Re and Im apart
           y_f = W [|ifft2(A F)|, |ifft2(g(Re F) · F)|]
spatial:   q, k, v = [conv3x3, conv5x5](W_qkv x),  channel attention a
           y_s = W [a, [conv3x3, conv5x5](x)]
y = y_f + y_s;  g: `SpectralGate`

The published code transforms A F back over (channels of a head, pixels); here it is (H, W).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.channel_attention import ChannelAttention, check_heads, from_heads, heads_of
from detrkit.layers.spectral_gate import SpectralGate
from detrkit.layers.tokens import size_of
from detrkit.ops.spectrum import fft2_parts, ifft2_magnitude
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="transformer",
    paper="arXiv:2409.01686",
    venue="ECCV 2024",
    example={"in_channels": 32, "num_heads": 4},
    traits=Traits(float32="the frequency branch"),
)
class FSSA(nn.Module):
    """Channel attention of frequencies and of pixels, summed. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C, a multiple of 16.
        num_heads: divides C.
        bias: of the convolutions but those that make queries, keys and values.
    """

    def __init__(self, in_channels: int, num_heads: int = 8, bias: bool = False) -> None:
        super().__init__()
        if in_channels % 16:
            raise ValueError(f"FSSA needs a multiple of 16 channels, got {in_channels}")
        check_heads(in_channels, num_heads)
        self.out_channels = in_channels
        self.frequency = FrequencyAttention(in_channels, num_heads, bias)
        self.spatial = SpatialAttention(in_channels, num_heads, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.frequency(x) + self.spatial(x)


class FrequencyAttention(nn.Module):
    """Attention among the spectra of channels. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, in_channels: int, num_heads: int, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.gate = SpectralGate(in_channels, in_channels // 16)
        self.project_out = nn.Conv2d(2 * in_channels, in_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            real, imag = fft2_parts(x)
            gate = self.gate(real)
            gated = ifft2_magnitude(gate * real, gate * imag)
            attended = self.inverse(*self._attend(real, imag), size_of(x))
            out = self.project_out(torch.cat([attended, gated], dim=1))
        return out.to(x.dtype)

    def _attend(self, real: Tensor, imag: Tensor) -> tuple[Tensor, Tensor]:
        """Parts of the spectra (B, C, H, W) -> of A F, (B, M, c, N)."""
        real, imag = (heads_of(t, self.num_heads) for t in (real, imag))
        unit = F.normalize(torch.cat([real, imag], dim=-1), dim=-1)
        a, b = unit.chunk(2, dim=-1)
        # (a + i b)(a + i b)ᵀ, without conjugation
        crossed = a @ b.transpose(-2, -1)
        scores = (
            a @ a.transpose(-2, -1) - b @ b.transpose(-2, -1),
            crossed + crossed.transpose(-2, -1),
        )
        of_real, of_imag = ((score * self.temperature).softmax(-1) for score in scores)
        return of_real @ real - of_imag @ imag, of_real @ imag + of_imag @ real

    def inverse(self, real: Tensor, imag: Tensor, size: tuple[int, int]) -> Tensor:
        """|ifft2| of parts (B, M, c, N): (B, C, H, W)."""
        return ifft2_magnitude(from_heads(real, size), from_heads(imag, size))


class SpatialAttention(nn.Module):
    """Channel attention of neighbourhoods beside a local branch. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, in_channels: int, num_heads: int, bias: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (
            nn.Sequential(nn.Conv2d(in_channels, in_channels, 1), _TwoScales(in_channels, bias))
            for _ in range(3)
        )
        self.attention = ChannelAttention(num_heads)
        self.local = _TwoScales(in_channels, bias)
        self.project_out = nn.Conv2d(2 * in_channels, in_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attention(self.q(x), self.k(x), self.v(x))
        return self.project_out(torch.cat([attended, self.local(x)], dim=1))


class _TwoScales(nn.Module):
    """[conv3x3, conv5x5], each from C to C / 2 channels in C / 2 groups."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        half = channels // 2
        self.conv3 = nn.Conv2d(channels, half, 3, padding=1, groups=half, bias=bias)
        self.conv5 = nn.Conv2d(channels, half, 5, padding=2, groups=half, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv3(x), self.conv5(x)], dim=1)
