"""Mixed local channel attention for object detection. Wan et al., Engineering Applications of AI
123 (2023) 106442.

L = pool_sxs(x),  G = mean(L)
A = (1 - w) · sigmoid(conv1d(G)) + w · sigmoid(conv1d(L))
y = x · spread(A)

The kernel is that of ECA-Net, arXiv:1910.03151: |log2(C) + b| / γ, made odd. The local
kernel runs over the channels of one cell after the other. `spread` gives every pixel the mean of
the cells that its bin touches. Older copies of the code averaged over the batch.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from detrkit.ops.pooling import adaptive_average
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="attention",
    paper="doi:10.1016/j.engappai.2023.106442",
    venue="Engineering Applications of AI 2023",
    example={"in_channels": 16},
    traits=Traits(),
)
class MLCA(nn.Module):
    """Channel attention of the whole map and of its cells. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        local_size: s, cells along each side.
        gamma, b: γ and b of the kernel's size.
        local_weight: w, 0–1.
    """

    def __init__(
        self,
        in_channels: int,
        local_size: int = 5,
        gamma: float = 2,
        b: float = 1,
        local_weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.local_size = local_size
        self.local_weight = local_weight
        size = int(abs(math.log2(in_channels) + b) / gamma)
        size += 1 - size % 2
        self.of_all = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)
        self.of_cells = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        side = self.local_size
        cells = adaptive_average(x, (side, side)).flatten(2).transpose(1, 2)  # (B, s², C)
        whole = self.of_all(cells.mean(1, keepdim=True)).sigmoid()  # (B, 1, C)
        local = self.of_cells(cells.flatten(1)[:, None]).unflatten(2, cells.shape[1:])[:, 0]
        gate = whole + self.local_weight * (local.sigmoid() - whole)
        gate = gate.transpose(1, 2).unflatten(2, (side, side))
        return x * adaptive_average(gate, (x.shape[2], x.shape[3]))
