"""Adapt or Perish: Adaptive Sparse Transformer with Attentive Feature Refinement for Image
Restoration (AST). Zhou et al., CVPR 2024.

x' = [conv3x3(x_first quarter), x_rest]                   partial convolution
[t1, t2] = gelu(W x');   y = P (gelu(dw3x3(t1)) · t2)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="mlp",
    paper="CVPR 2024 (Zhou et al., Adapt or Perish)",
    venue="CVPR 2024",
    example={"in_channels": 16, "hidden_channels": 32},
    traits=Traits(),
)
class FRFN(nn.Module):
    """Refines a part of the channels and gates by neighbours. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C, at least 4.
        hidden_channels: of gate and value; None: 4 · C.
        out_channels: None: C.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int | None = None, out_channels: int | None = None
    ) -> None:
        super().__init__()
        if in_channels < 4:
            raise ValueError(f"FRFN needs at least 4 channels, got {in_channels}")
        self.out_channels = out_channels or in_channels
        self.refined = in_channels // 4
        hidden = hidden_channels or 4 * in_channels
        self.partial = nn.Conv2d(self.refined, self.refined, 3, padding=1, bias=False)
        self.fc1 = nn.Conv2d(in_channels, 2 * hidden, 1)
        self.dwconv = depthwise(hidden, 3)
        self.fc2 = nn.Conv2d(hidden, self.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.partial(x[:, : self.refined]), x[:, self.refined :]], dim=1)
        gate, value = F.gelu(self.fc1(x)).chunk(2, dim=1)
        return self.fc2(F.gelu(self.dwconv(gate)) * value)
