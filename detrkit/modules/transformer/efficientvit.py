"""EfficientViT: Memory Efficient Vision Transformer with Cascaded Group Attention. Liu et al.,
CVPR 2023, arXiv:2305.07027.

f_1 = x_1,  f_j = x_j + y_{j-1}      x_j: chunks of the channels
y_j = softmax(dw(q_j)ᵀ k_j / sqrt(d) + b_j) v_j
y   = bn(conv(relu([y_1, …, y_h])))

The window's bias depends on (|dy|, |dx|). Padded pixels take part in attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.channel_attention import check_heads
from detrkit.layers.conv import ConvNormAct
from detrkit.layers.tokens import size_of
from detrkit.layers.windows import from_windows, padded, windows_of
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="transformer",
    paper="arXiv:2305.07027",
    venue="CVPR 2023",
    example={"in_channels": 32, "key_dim": 4},
    traits=Traits(),
)
class CascadedGroupAttention(nn.Module):
    """Heads in a cascade, within windows. (B, C, H, W) -> (B, C, H, W).

    Larger maps are padded with zeros to whole windows; one that fits is a single window. The last
    norm starts at zero: the module belongs on a residual branch.

    Args:
        in_channels: C.
        key_dim: d, of the queries and keys of a head.
        num_heads: h, divides C.
        window_resolution: side of the windows.
        kernels: sides of the convolutions of the queries, one for each head; odd.
    """

    def __init__(
        self,
        in_channels: int,
        key_dim: int = 16,
        num_heads: int = 4,
        window_resolution: int = 7,
        kernels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_heads(in_channels, num_heads)
        kernels = [5] * num_heads if kernels is None else list(kernels)
        if len(kernels) != num_heads:
            raise ValueError(f"kernels needs {num_heads} numbers, one per head, got {kernels}")
        self.out_channels = in_channels
        self.key_dim = key_dim
        self.side = window_resolution
        width = in_channels // num_heads
        self.qkv = nn.ModuleList(
            ConvNormAct(width, 2 * key_dim + width, 1) for _ in range(num_heads)
        )
        self.dws = nn.ModuleList(
            ConvNormAct(key_dim, key_dim, side, groups=key_dim) for side in kernels
        )
        self.proj = ConvNormAct(in_channels, in_channels, 1)
        nn.init.zeros_(self.proj.norm.weight)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_resolution**2))

    def forward(self, x: Tensor) -> Tensor:
        height, width = size_of(x)
        if height <= self.side and width <= self.side:
            return self._in_window(x)
        windows = windows_of(padded(x, self.side), self.side)  # (B, n, m, C, s, s)
        out = self._in_window(windows.flatten(0, 2)).unflatten(0, windows.shape[:3])
        return from_windows(out)[:, :, :height, :width]

    def _in_window(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w); h and w up to the window's side."""
        size = size_of(x)
        biases = self.attention_biases[:, self._offsets(*size)]  # (heads, N, N)
        out: Tensor | None = None
        outs = []
        for chunk, qkv, dw, bias in zip(
            x.chunk(len(self.qkv), dim=1), self.qkv, self.dws, biases, strict=True
        ):
            q, k, v = qkv(chunk if out is None else chunk + out).split(
                [self.key_dim, self.key_dim, chunk.shape[1]], dim=1
            )
            q, k, v = (t.flatten(2) for t in (dw(q), k, v))
            scores = (q.transpose(1, 2) * self.key_dim**-0.5) @ k + bias  # (B, N, N)
            out = (v @ scores.softmax(-1).transpose(1, 2)).unflatten(2, size)
            outs.append(out)
        return self.proj(torch.cat(outs, dim=1).relu())

    def _offsets(self, h: int, w: int) -> Tensor:
        """(N, N): element of the table for two pixels of a window."""
        device = self.attention_biases.device
        rows = torch.arange(h, device=device).repeat_interleave(w)
        columns = torch.arange(w, device=device).repeat(h)
        dy, dx = ((t[:, None] - t).abs() for t in (rows, columns))
        return dy * self.side + dx
