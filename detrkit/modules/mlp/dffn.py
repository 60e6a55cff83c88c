"""FreqFormer: Frequency-aware Transformer for Lightweight Image Super-resolution. Dai et al.,
IJCAI 2024, doi:10.24963/ijcai.2024/81.

[t1, t2] = gelu(W x);   y = P (t1 · dw3x3(conv(layernorm(t2))))      dual-frequency aggregation

Not the frequency-domain DFFN of FFTformer (CVPR 2023).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.layers.norm import LayerNorm2d
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="mlp",
    paper="doi:10.24963/ijcai.2024/81",
    venue="IJCAI 2024",
    example={"in_channels": 16, "hidden_channels": 32},
    traits=Traits(),
)
class DFFN(nn.Module):
    """One half of the hidden channels gates the other with its detail. (B, C, H, W) -> (B, out, …).

    Args:
        in_channels: C.
        hidden_channels: even; None: C.
        out_channels: None: C.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int | None = None, out_channels: int | None = None
    ) -> None:
        super().__init__()
        hidden = hidden_channels or in_channels
        if hidden % 2:
            raise ValueError(f"hidden_channels must be even, got {hidden}")
        self.out_channels = out_channels or in_channels
        self.fc1 = nn.Conv2d(in_channels, hidden, 1)
        self.norm = LayerNorm2d(hidden // 2, eps=1e-5)
        self.detail = nn.Sequential(
            nn.Conv2d(hidden // 2, hidden // 2, 1), depthwise(hidden // 2, 3)
        )
        self.fc2 = nn.Conv2d(hidden // 2, self.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = F.gelu(self.fc1(x)).chunk(2, dim=1)
        return self.fc2(first * self.detail(self.norm(second)))
