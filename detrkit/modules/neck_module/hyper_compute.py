"""Hypergraph computation. Hyper-YOLO, Feng et al., TPAMI 2025, arXiv:2408.04804, section 3.3.

    H_ij = [‖x_i - x_j‖ < ε]            every pixel opens a hyperedge: those near to it
    E = D⁻¹ H X W,   V = D⁻¹ H E        mean over an edge, then over a pixel's edges
    y = SiLU(BN(x + V))

Distances of all pairs: for small maps. The edges themselves have no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.tokens import from_tokens, size_of, tokens_of
from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits


@MODULES.register(
    "HyperComputeModule",
    "HyperC2Net",
    family="neck_module",
    paper="arXiv:2408.04804",
    venue="TPAMI 2025",
    example={"in_channels": 16, "threshold": 4.0},
    traits=Traits(float32="distances, which decide for or against an edge"),
)
class HyperComputeModule(nn.Module):
    """(B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        threshold: ε. The authors take 6 (N), 8 (S), 10 (M, L) and 12 (X).
    """

    def __init__(self, in_channels: int, threshold: float = 8.0) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.threshold = threshold
        self.linear = nn.Linear(in_channels, in_channels)
        self.norm = nn.BatchNorm2d(in_channels)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        tokens = tokens_of(x)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            exact = precise(tokens)
            near = torch.cdist(exact, exact) < self.threshold  # (B, N, N)
        mean = near.to(tokens.dtype)
        mean = mean / mean.sum(-1, keepdim=True)
        gathered = mean @ (mean @ self.linear(tokens))
        return self.act(self.norm(x + from_tokens(gathered, size_of(x))))
