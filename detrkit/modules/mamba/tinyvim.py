"""TinyViM: Frequency Decoupling for Tiny Hybrid Vision Mamba. Ma et al., ICCV 2025,
arXiv:2411.17473.

low, high = silu R(W_in X)                    R: depthwise 7×1 and 1×7, half of the channels each
low  <- up(LN SS2D(pool low)) + low - nearest(pool low)
high <- R_3×3 high
X    <- X + W_out [low, high]
X    <- X + MLP X

R(x) = BN(BN(dw x) + dw_1×1 x + x). The pool is 8, 4, 2 and 1 in stages 0 to 3. Where it does not
divide the sides, low is enlarged to the exact size; the authors' code fails there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct, convolution_of, fused_convolution, fused_weights
from detrkit.layers.depthwise import depthwise
from detrkit.layers.drop_path import DropPath
from detrkit.layers.norm import LayerNorm2d
from detrkit.layers.state_space import DirectionalScan, dt_rank_of
from detrkit.layers.tokens import size_of
from detrkit.layers.windows import check_smallest
from detrkit.ops.cross_scan import cross_merge, cross_scan
from detrkit.registry import MODULES, Traits

#: Share of the channels with low frequencies in the four stages.
LOW_SHARES = (1 / 4, 1 / 2, 1 / 2, 3 / 4)


class RepDepthwise(nn.Module):
    """BN(BN(dw x) + dw_1×1 x + x), one convolution afterwards. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        kernel_size: (h, w), odd.
    """

    def __init__(self, channels: int, kernel_size: tuple[int, int]) -> None:
        super().__init__()
        self.channels = channels
        self.large = ConvNormAct(channels, channels, kernel_size, groups=channels)
        self.point = depthwise(channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        if "conv" in self._modules:
            return self.conv(x)
        return self.norm(self.large(x) + self.point(x) + x)

    def convert_to_deploy(self) -> None:
        """Adds the 1×1 kernel and the shortcut to the middle of the large one, folds the norm."""
        if "conv" in self._modules:
            return
        assert self.point.bias is not None
        kernel, bias = fused_weights(self.large.conv, self.large.norm)
        height, width = kernel.shape[2:]
        kernel = kernel.detach().clone()
        kernel[:, :, height // 2, width // 2] += self.point.weight[..., 0, 0].detach() + 1
        conv = convolution_of(kernel, bias + self.point.bias, groups=self.channels)
        self.conv = fused_convolution(conv, self.norm)
        del self.large, self.point, self.norm


class FrequencyMixer(nn.Module):
    """Scans low frequencies, convolves high ones. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        d_state: n, states of a channel.
        ratio: width inside, relative to C.
        stage: 0 to 3.
    """

    def __init__(self, channels: int, d_state: int, ratio: float, stage: int) -> None:
        super().__init__()
        inner = int(ratio * channels)
        low = int(inner * LOW_SHARES[stage])
        self.pool = 2 ** (3 - stage)
        self.halves = [inner - inner // 2, inner // 2]
        self.parts = [low, inner - low]
        self.in_proj = ConvNormAct(channels, inner, 1)
        self.tall = RepDepthwise(self.halves[0], (7, 1))
        self.wide = RepDepthwise(self.halves[1], (1, 7))
        self.scan = DirectionalScan(low, d_state, dt_rank_of(channels))
        self.norm = LayerNorm2d(low, eps=1e-5)
        self.high = RepDepthwise(inner - low, (3, 3))
        self.out_proj = ConvNormAct(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        tall, wide = self.in_proj(x).split(self.halves, 1)
        x = F.silu(torch.cat([self.tall(tall), self.wide(wide)], 1))
        low, high = x.split(self.parts, 1)
        return self.out_proj(torch.cat([self.mix_low(low), self.high(high)], 1))

    def mix_low(self, x: Tensor) -> Tensor:
        if self.pool == 1:
            return self.scanned(x)
        size = size_of(x)
        pooled = F.avg_pool2d(x, self.pool)
        detail = x - F.interpolate(pooled, size)
        return F.interpolate(self.scanned(pooled), size, mode="bilinear") + detail

    def scanned(self, x: Tensor) -> Tensor:
        return self.norm(cross_merge(self.scan(cross_scan(x)), size_of(x)))


@MODULES.register(
    family="mamba",
    paper="arXiv:2411.17473",
    venue="ICCV 2025",
    example={"in_channels": 16, "d_state": 4},
    traits=Traits(smallest=2, float32="the scan"),
)
class TViMBlock(nn.Module):
    """A scan of low frequencies beside convolutions, then an MLP. (B, C, H, W) -> (B, C, H, W).

    Maps need a side of 2^(3 - stage).

    Args:
        in_channels: C.
        d_state: n, states of a channel.
        ssm_ratio, mlp_ratio: widths inside mixer and MLP, relative to C.
        stage: 0 to 3 for maps of stride 4 to 32: how far low frequencies are pooled, and how many
            channels hold them.
        drop_path: rate at which training leaves a branch out.

    Raises:
        ValueError: another stage; a map that is too small.
    """

    def __init__(
        self,
        in_channels: int,
        d_state: int = 8,
        ssm_ratio: float = 1.0,
        mlp_ratio: float = 4.0,
        *,
        stage: int = 2,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if stage not in range(4):
            raise ValueError(f"stage must be 0, 1, 2 or 3, got {stage}")
        self.out_channels = in_channels
        hidden = int(in_channels * mlp_ratio)
        self.mixer = FrequencyMixer(in_channels, d_state, ssm_ratio, stage)
        self.mlp = nn.Sequential(
            ConvNormAct(in_channels, hidden, 1, act="gelu"), ConvNormAct(hidden, in_channels, 1)
        )
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        check_smallest(x, self.mixer.pool)
        x = x + self.drop(self.mixer(x))
        return x + self.drop(self.mlp(x))
