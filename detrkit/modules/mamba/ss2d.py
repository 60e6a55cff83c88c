"""Mamba YOLO: A Simple Baseline for Object Detection with State Space Model. Wang et al., AAAI
2025, arXiv:2406.05835; the operator is that of VMamba, Liu et al., NeurIPS 2024, arXiv:2401.10166.

x, z = W_in X                                 z <- gelu z, x <- gelu dwconv x
y    = LN merge_k S6_k(scan_k x)              by rows, by columns, both backwards
out  = W_out (y · z)

Where the scan is narrower than the gate, one linear layer goes down before it and one up behind
the norm.
"""

from __future__ import annotations

from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.layers.norm import LayerNorm2d
from detrkit.layers.state_space import DirectionalScan, dt_rank_of
from detrkit.layers.tokens import size_of
from detrkit.ops.cross_scan import cross_merge, cross_scan
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="mamba",
    paper="arXiv:2406.05835",
    venue="AAAI 2025",
    example={"in_channels": 16, "d_state": 4, "ssm_rank_ratio": 1.0},
    traits=Traits(float32="the scan"),
)
class SS2D(nn.Module):
    """A gated selective scan of the map in four directions. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        d_state: n, states of a channel.
        ssm_ratio: width of the gate and of the depthwise convolution, relative to C.
        ssm_rank_ratio: width of the scan, relative to C; at most that of the gate.
        dt_rank: of the projection to step sizes; None: ⌈C / 16⌉.
        d_conv: side of the depthwise convolution, odd.
        conv_bias, bias: of the depthwise convolution, and of the first and the last.
        dropout: rate behind the last convolution.
        gated: whether there is a gate z.

    Raises:
        ValueError: d_conv is even.
    """

    def __init__(
        self,
        in_channels: int,
        d_state: int = 16,
        ssm_ratio: float = 2.0,
        ssm_rank_ratio: float = 2.0,
        *,
        dt_rank: int | None = None,
        d_conv: int = 3,
        conv_bias: bool = True,
        bias: bool = False,
        dropout: float = 0.0,
        gated: bool = True,
    ) -> None:
        super().__init__()
        if d_conv % 2 == 0:
            raise ValueError(f"d_conv must be odd, got {d_conv}")
        self.out_channels = in_channels
        self.gated = gated
        inner = int(ssm_ratio * in_channels)
        width = int(min(ssm_rank_ratio, ssm_ratio) * in_channels)
        self.in_proj = nn.Conv2d(in_channels, inner * (2 if gated else 1), 1, bias=bias)
        self.conv = depthwise(inner, d_conv, bias=conv_bias)
        self.act = nn.GELU()
        low_rank = width < inner
        self.down = nn.Conv2d(inner, width, 1, bias=False) if low_rank else nn.Identity()
        self.scan = DirectionalScan(width, d_state, dt_rank or dt_rank_of(in_channels))
        nn.init.zeros_(self.scan.A_logs)
        nn.init.normal_(self.scan.dt_projs_weight)
        nn.init.normal_(self.scan.dt_projs_bias)
        self.norm = LayerNorm2d(width, eps=1e-5)
        self.up = nn.Conv2d(width, inner, 1, bias=False) if low_rank else nn.Identity()
        self.out_proj = nn.Conv2d(inner, in_channels, 1, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor | float = 1.0
        x = self.in_proj(x)
        if self.gated:
            x, z = x.chunk(2, 1)
            gate = self.act(z)
        x = self.down(self.act(self.conv(x)))
        y = cross_merge(self.scan(cross_scan(x)), size_of(x))
        return self.dropout(self.out_proj(self.up(self.norm(y)) * gate))
