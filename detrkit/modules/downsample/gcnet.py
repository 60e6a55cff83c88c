"""CGNet: A Light-weight Context Guided Network for Semantic Segmentation. Wu et al., IEEE TIP 2021,
arXiv:1811.08201.

j = prelu(BN([DW(u); DW_r(u)])),  u = prelu(BN(conv_2(x)))        local, surrounding
y = σ(W_2 relu(W_1 GAP(z))) · z,  z = PW(j)                       global context
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.registry import MODULES, Traits

#: eps of its norms.
EPS = 1e-3


@MODULES.register(
    family="downsample",
    paper="arXiv:1811.08201",
    venue="IEEE TIP 2021",
    example={"in_channels": 16, "out_channels": 32, "reduction": 4},
    traits=Traits(scale=0.5),
)
class ContextGuidedBlock_Down(nn.Module):
    """Each pixel with what surrounds it, near and overall. (B, in, H, W) -> (B, out, H/2, W/2).

    Sides are rounded up.

    Args:
        in_channels: C.
        out_channels: width of the result; None doubles C.
        dilation_rate: r of the surroundings.
        reduction: the gate's hidden layer is this many times narrower.

    Raises:
        ValueError: `out_channels` is below `reduction`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        dilation_rate: int = 2,
        reduction: int = 16,
    ) -> None:
        super().__init__()
        self.out_channels = out = out_channels or 2 * in_channels
        if out < reduction:
            raise ValueError(f"out_channels {out} must be at least reduction {reduction}")
        self.down = nn.Sequential(
            nn.Conv2d(in_channels, out, 3, 2, 1, bias=False),
            nn.BatchNorm2d(out, EPS),
            nn.PReLU(out),
        )
        self.local = depthwise(out, 3, bias=False)
        self.surrounding = depthwise(out, 3, dilation=dilation_rate, bias=False)
        self.joint = nn.Sequential(nn.BatchNorm2d(2 * out, EPS), nn.PReLU(2 * out))
        self.reduce: nn.Module = nn.Conv2d(2 * out, out, 1, bias=False)
        self.gate = nn.Sequential(
            nn.Linear(out, out // reduction), nn.ReLU(), nn.Linear(out // reduction, out)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        z = self.reduce(self.joint(torch.cat([self.local(x), self.surrounding(x)], dim=1)))
        return z * self.gate(z.mean((2, 3))).sigmoid()[..., None, None]
