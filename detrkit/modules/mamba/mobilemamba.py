"""MobileMamba: Lightweight Multi-Receptive Visual Mamba Network. He et al., CVPR 2025,
arXiv:2411.15941.

X_G, X_L, X_I = X                             channels: global, local, identity
Y_G = s_w · IWT dw(WT X_G) + s · SS2D X_G     a wavelet branch and a scan by rows, both ways
Y_L = BN dw_1×1 relu BN dw_k×k X_L
Y   = BN W relu [Y_G, Y_L, X_I]               starts at zero

The two directions are summed for each image; the authors' code for CPUs mixes the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.layers.depthwise import depthwise
from detrkit.layers.norm import LayerNorm2d
from detrkit.layers.state_space import DirectionalScan, dt_rank_of
from detrkit.layers.tokens import size_of
from detrkit.ops.cross_scan import both_ways, merged_ways
from detrkit.ops.wavelets import analyse, even, synthesise, wavelet_bank
from detrkit.registry import MODULES, Traits


class BothWaysScan(nn.Module):
    """A gated scan of the rows, forwards and backwards. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        ratio: width inside, relative to C.
    """

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        inner = int(ratio * channels)
        self.in_proj = ConvNormAct(channels, 2 * inner, 1)
        self.conv = depthwise(inner, 3)
        self.scan = DirectionalScan(inner, 1, dt_rank_of(channels), directions=2)
        nn.init.zeros_(self.scan.A_logs)
        nn.init.uniform_(self.scan.dt_projs_weight, 0, 0.1)
        nn.init.uniform_(self.scan.dt_projs_bias, 0, 0.1)
        self.norm = LayerNorm2d(inner, eps=1e-5)
        self.out_proj = ConvNormAct(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, z = self.in_proj(x).chunk(2, 1)
        sequence = F.silu(self.conv(x)).flatten(2)[:, None]
        y = merged_ways(self.scan(both_ways(sequence)))[:, 0].unflatten(2, size_of(x))
        return self.out_proj(self.norm(y) * F.silu(z))


class WaveletScan(nn.Module):
    """A scan beside a convolution of wavelet bands. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        kernel_size: of the convolution, odd.
        ratio: width inside the scan, relative to C.
    """

    bank: Tensor

    def __init__(self, channels: int, kernel_size: int, ratio: float) -> None:
        super().__init__()
        self.register_buffer("bank", wavelet_bank().repeat(channels, 1, 1, 1))
        self.conv = depthwise(4 * channels, kernel_size, bias=False)
        self.band_scale = nn.Parameter(torch.full((1, 4 * channels, 1, 1), 0.1))
        self.scan = BothWaysScan(channels, ratio)
        self.scan_scale = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        bands = analyse(even(x), self.bank)
        filtered = (self.conv(bands.flatten(1, 2)) * self.band_scale).view_as(bands)
        waves = synthesise(filtered, self.bank)[..., :height, :width]
        return self.scan_scale * self.scan(x) + waves


@MODULES.register(
    family="mamba",
    paper="arXiv:2411.15941",
    venue="CVPR 2025",
    example={"in_channels": 32, "global_ratio": 0.5},
    traits=Traits(float32="the scan"),
)
class MobileMambaModule(nn.Module):
    """Multi-receptive-field feature interaction. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        global_ratio: share of the channels that are scanned, rounded to a multiple of 16; none
            below 8 channels.
        local_ratio: share of those that are convolved; the rest passes.
        kernel_size: k of both convolutions, odd.
        ssm_ratio: width inside the scan, relative to the channels scanned.

    Raises:
        ValueError: kernel_size is even, or more channels are to be scanned than there are.
    """

    def __init__(
        self,
        in_channels: int,
        global_ratio: float = 0.25,
        local_ratio: float = 0.25,
        kernel_size: int = 3,
        ssm_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        scanned = (int(global_ratio * in_channels) + 8) // 16 * 16
        if scanned > in_channels:
            raise ValueError(f"global_ratio {global_ratio} takes {scanned} of {in_channels}")
        local = min(int(local_ratio * in_channels), in_channels - scanned)
        self.out_channels = in_channels
        self.widths = [scanned, local, in_channels - scanned - local]
        self.far = WaveletScan(scanned, kernel_size, ssm_ratio) if scanned else nn.Identity()
        self.near: nn.Module = nn.Identity()
        if local:
            self.near = nn.Sequential(
                ConvNormAct(local, local, kernel_size, groups=local, act="relu"),
                ConvNormAct(local, local, 1, groups=local),
            )
        self.project = ConvNormAct(in_channels, in_channels, 1)
        nn.init.zeros_(self.project.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        far, near, rest = x.split(self.widths, 1)
        return self.project(F.relu(torch.cat([self.far(far), self.near(near), rest], 1)))
