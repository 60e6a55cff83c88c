"""CGFM: context-guided fusion. In-house design of public collections, without a paper.

    [u₀, u₁] = SE([x₀, x₁])                 squeeze and excitation over both maps
    y = [x₀ + x₁ · u₁, x₁ + x₀ · u₀]        each map is guided by the other

u contains x already, so the guide grows with its square: in half precision keep inputs normed.
Squeeze and excitation: Hu et al., CVPR 2018, arXiv:1709.01507.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.conv import matched
from detrkit.registry import MODULES, Traits


@MODULES.register(
    "ContextGuideFusionModule",
    "CGFM",
    family="featurefusion",
    paper="in-house; arXiv:1709.01507",
    example={"in_channels": [8, 16], "out_channels": 24, "reduction": 4},
    traits=Traits(),
)
class ContextGuideFusionModule(nn.Module):
    """[(B, C₀, H, W), (B, C₁, H, W)] -> (B, out_channels, H, W).

    Args:
        in_channels: C₀, C₁.
        out_channels: None: C₁.
        reduction: the hidden layer of the gate is 2 · C₁ // reduction wide.

    Raises:
        ValueError: that is no width.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int | None = None, reduction: int = 16
    ) -> None:
        super().__init__()
        first, width = in_channels
        hidden = 2 * width // reduction
        if hidden < 1:
            raise ValueError(f"reduction {reduction} leaves nothing of {2 * width} channels")
        self.out_channels = width if out_channels is None else out_channels
        self.match = matched(first, width)
        self.gate = nn.Sequential(
            nn.Linear(2 * width, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, 2 * width, bias=False),
            nn.Sigmoid(),
        )
        self.fuse = matched(2 * width, self.out_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x0, x1 = self.match(maps[0]), maps[1]
        gate0, gate1 = self.gate(torch.cat([x0, x1], 1).mean((2, 3)))[..., None, None].chunk(2, 1)
        return self.fuse(torch.cat([x0 + x1 * x1 * gate1, x1 + x0 * x0 * gate0], dim=1))
