"""Adaptive receptive field module, of a detector of small infrared targets, IEEE TGRS 2025.

a = f3×3(x), b = f5×5(a), c = f7×7(b)                              depthwise, norm, SiLU
[S_a, S_b, S_c] = sigmoid(BN(conv3×3([mean, max over channels of [a, b, c]])))
y = x · (S_a · a + S_b · b + S_c · c)

Known through a copy only. It gives the sigmoid as a class and so computes without it; here it is
applied, as in the paper's figure, which also has a 1×1 convolution before the product that the
copy lacks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct, matched
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="module",
    paper="IEEE TGRS 2025",
    example={"in_channels": 16},
    traits=Traits(),
)
class ARF(nn.Module):
    """Every pixel and channel weighs three receptive fields. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        out_channels: None keeps C; another width is made at the end.
    """

    def __init__(self, in_channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        c = in_channels
        self.out_channels = out_channels or c
        self.fields = nn.ModuleList(
            ConvNormAct(c, c, side, groups=c, act="silu") for side in (3, 5, 7)
        )
        self.masks = ConvNormAct(2, 3 * c, 3, act="sigmoid")
        self.match = matched(c, self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for field in self.fields:
            seen.append(field(seen[-1]))
        fields = torch.cat(seen[1:], dim=1)
        pooled = torch.cat([fields.mean(1, keepdim=True), fields.amax(1, keepdim=True)], dim=1)
        weighed = (self.masks(pooled) * fields).unflatten(1, (3, -1)).sum(1)
        return self.match(x * weighed)
