"""MASAG: multi-scale adaptive spatial attention gate. MSA²Net, Kolahi et al., BMVC 2024,
arXiv:2407.21640.

    m = BN(local(x) + global(g))                          context of both, section 3.2
    [A, B] = softmax(1×1 m);  x' = A x + x;  g' = B g + g  selection
    i = σ(g') x' · σ(x') g'                                cross gating
    y = BN(1×1(σ(BN(1×1 i)) · x))

The second convolution of the local context is dense, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.conv import matched
from detrkit.registry import MODULES, Traits


@MODULES.register(
    "MultiScaleGatedAttn",
    "MASAG",
    family="featurefusion",
    paper="arXiv:2407.21640",
    venue="BMVC 2024",
    example={"in_channels": [8, 16], "out_channels": 12},
    traits=Traits(),
)
class MultiScaleGatedAttn(nn.Module):
    """[(B, C₀, H, W), (B, C₁, H, W)] -> (B, out_channels, H, W).

    Args:
        in_channels: C₀ of the gated map x, C₁ of the gating map g.
        out_channels: None: C₁.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int | None = None) -> None:
        super().__init__()
        first, second = in_channels
        self.out_channels = c = second if out_channels is None else out_channels
        self.match_x, self.match_g = matched(first, c), matched(second, c)
        self.local_context = nn.Sequential(
            nn.Conv2d(c, c, 3, padding=1, groups=c),
            nn.BatchNorm2d(c),
            nn.ReLU(),
            nn.Conv2d(c, c, 3, padding=2, dilation=2),
            nn.BatchNorm2d(c),
            nn.ReLU(),
            nn.Conv2d(c, c, 1),
            nn.BatchNorm2d(c),
        )
        self.global_context = nn.Sequential(nn.Conv2d(2, 1, 1), nn.BatchNorm2d(1))
        self.norm = nn.BatchNorm2d(c)
        self.select = nn.Conv2d(c, 2, 1)
        self.gate = nn.Sequential(nn.Conv2d(c, c, 1), nn.BatchNorm2d(c), nn.Sigmoid())
        self.project = nn.Sequential(nn.Conv2d(c, c, 1), nn.BatchNorm2d(c))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x, g = self.match_x(maps[0]), self.match_g(maps[1])
        pooled = torch.cat([g.mean(1, keepdim=True), g.amax(1, keepdim=True)], dim=1)
        context = self.norm(self.local_context(x) + self.global_context(pooled))
        share_x, share_g = self.select(context).softmax(1).chunk(2, dim=1)
        x_selected, g_selected = share_x * x + x, share_g * g + g
        crossed = (g_selected.sigmoid() * x_selected) * (x_selected.sigmoid() * g_selected)
        return self.project(self.gate(crossed) * x)
