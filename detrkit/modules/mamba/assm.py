"""MambaIRv2: Attentive State Space Restoration. Guo et al., CVPR 2025, arXiv:2411.15269.

P    = E_B E_A                                a prompt for each of T classes, of low rank
r_t  = onehot(route X_t)                      straight-through Gumbel-softmax
x    = W_in X,  x <- x · σ(dwconv x)
y    = S6 of x sorted by class, with C_t + P r_t in the place of C_t
out  = W_out LN y, back in place

As in the authors' code, step t of the sorted sequence receives the prompt of pixel t, unsorted.
Routing is random in training only; theirs is in evaluation too. Pixels of a class keep their order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.layers.state_space import DirectionalScan, dt_rank_of
from detrkit.layers.tokens import from_tokens, size_of, tokens_of
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="mamba",
    paper="arXiv:2411.15269",
    venue="CVPR 2025",
    example={"in_channels": 16, "d_state": 4, "num_tokens": 8, "inner_rank": 6},
    traits=Traits(float32="the scan"),
)
class ASSM(nn.Module):
    """One scan over pixels sorted by a learned class. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C, at least 3.
        d_state: n, states of a channel.
        num_tokens: T, classes of pixels.
        inner_rank: of the prompts.
        mlp_ratio: width inside, relative to C.

    Raises:
        ValueError: fewer than 3 channels.
    """

    def __init__(
        self,
        in_channels: int,
        d_state: int = 16,
        num_tokens: int = 64,
        inner_rank: int = 128,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        if in_channels < 3:
            raise ValueError(f"in_channels must be at least 3, got {in_channels}")
        self.out_channels = in_channels
        inner = int(in_channels * mlp_ratio)
        self.mix = nn.Parameter(
            torch.empty(num_tokens, inner_rank).uniform_(-1 / num_tokens, 1 / num_tokens)
        )
        self.basis = nn.Parameter(
            torch.empty(inner_rank, d_state).uniform_(-1 / inner_rank, 1 / inner_rank)
        )
        self.route = nn.Sequential(
            nn.Linear(in_channels, in_channels // 3),
            nn.GELU(),
            nn.Linear(in_channels // 3, num_tokens),
            nn.LogSoftmax(-1),
        )
        self.in_proj = nn.Conv2d(in_channels, inner, 1)
        self.gate = depthwise(inner, 3)
        self.scan = DirectionalScan(inner, d_state, dt_rank_of(inner), directions=1)
        self.norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        size = size_of(x)
        classes = self.classes(tokens_of(x))
        prompt = (classes @ (self.mix @ self.basis)).transpose(1, 2)  # (B, n, L)
        order = sorted_places(classes.argmax(-1))
        x = self.in_proj(x)
        x = (x * self.gate(x).sigmoid()).flatten(2)
        sequence = x.gather(2, order[:, None].expand_as(x))
        y = self.scan(sequence[:, None], prompt[:, None])[:, 0].transpose(1, 2)
        y = self.out_proj(self.norm(y))
        return from_tokens(y.gather(1, order.argsort(1)[..., None].expand_as(y)), size)

    def classes(self, tokens: Tensor) -> Tensor:
        """The class of each pixel, one-hot: (B, L, C) -> (B, L, T)."""
        logits = self.route(tokens)
        if self.training:
            return F.gumbel_softmax(logits, hard=True)
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)


def sorted_places(labels: Tensor) -> Tensor:
    """Places of (B, L) integers in rising order; equal ones keep theirs."""
    length = labels.shape[1]
    return (labels * length + torch.arange(length, device=labels.device)).argsort(1)
