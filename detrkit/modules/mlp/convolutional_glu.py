"""TransNeXt: Robust Foveal Visual Perception for Vision Transformers. Shi, CVPR 2024,
arXiv:2311.17132.

[a, v] = W x;   y = P (gelu(dw3x3(a)) · v)

Hidden width 2/3 of an ordinary feed-forward net's, so that the parameters are as many.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="mlp",
    paper="arXiv:2311.17132",
    venue="CVPR 2024",
    example={"in_channels": 16, "hidden_channels": 32},
    traits=Traits(),
)
class ConvolutionalGLU(nn.Module):
    """A gated feed-forward net whose gate sees neighbours. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        hidden_channels: of the net it replaces, 2/3 of which are used; None: C.
        out_channels: None: C.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int | None = None, out_channels: int | None = None
    ) -> None:
        super().__init__()
        self.out_channels = out_channels or in_channels
        hidden = int(2 * (hidden_channels or in_channels) / 3)
        self.fc1 = nn.Conv2d(in_channels, 2 * hidden, 1)
        self.dwconv = depthwise(hidden, 3)
        self.fc2 = nn.Conv2d(hidden, self.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=1)
        return self.fc2(F.gelu(self.dwconv(gate)) * value)
