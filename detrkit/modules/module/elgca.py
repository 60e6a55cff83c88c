"""ELGC-Net: Efficient Local-Global Context Aggregation for Remote Sensing Change Detection.
Noman et al., IEEE TGRS 2024, arXiv:2403.17909.

[x1, x2] = LN(x),   [q, k, v, l] = gelu(W x2)
S = softmax(avgpool(q) maxpool(k)ᵀ) over q's channels
x <- x + [gelu(DW3×3(x1)), l, Sᵀ v]                              eq. 1–4
x <- x + W (u + gelu(DW3×3(u))),   u = gelu(W LN(x))
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.layers.norm import LayerNorm2d
from detrkit.layers.windows import check_multiple
from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits


@MODULES.register(
    "ELGCABlock",
    "ELGCA_EncoderBlock",
    family="module",
    paper="arXiv:2403.17909",
    venue="IEEE TGRS 2024",
    example={"in_channels": 16},
    traits=Traits(multiple=2, float32="products of all pixels"),
)
class ELGCABlock(nn.Module):
    """Local and global context, then feed-forward. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C, a multiple of 4.
        num_groups: quarters that half of the channels become: keys, values, local features, and
            one or more that add up to the queries; at least 4.
        mlp_ratio: width of the feed-forward part, relative to C.

    Raises:
        ValueError: C is no multiple of 4, or there are fewer groups.
    """

    def __init__(self, in_channels: int, num_groups: int = 4, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        hidden = int(c * mlp_ratio)
        self.norm1, self.norm2 = LayerNorm2d(c), LayerNorm2d(c)
        self.attention = ELGCA(c, num_groups)
        self.fc1 = nn.Conv2d(c, hidden, 1)
        self.dwconv = depthwise(hidden, 3)
        self.fc2 = nn.Conv2d(hidden, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        u = F.gelu(self.fc1(self.norm2(x)))
        return x + self.fc2(u + F.gelu(self.dwconv(u)))


class ELGCA(nn.Module):
    """Efficient local-global context aggregation. (B, C, H, W) -> (B, C, H, W), H and W even.

    Args:
        channels: C.
        num_groups: see `ELGCABlock`.
    """

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(f"in_channels must be a multiple of 4, got {channels}")
        if num_groups < 4:
            raise ValueError(f"num_groups must be at least 4, got {num_groups}")
        self.num_groups = num_groups
        self.local = depthwise(channels // 2, 3)
        self.groups = nn.Conv2d(channels // 2, num_groups * channels // 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_multiple(x, 2)
        x1, x2 = x.chunk(2, dim=1)
        groups = F.gelu(self.groups(x2)).unflatten(1, (self.num_groups, -1))
        q, (k, v, local) = groups[:, :-3].sum(1), groups[:, -3:].unbind(1)
        with torch.autocast(x.device.type, enabled=False):
            q = precise(F.avg_pool2d(q, 3, 2, 1)).flatten(2)
            k = precise(F.max_pool2d(k, 2)).flatten(2)
            weights = (q @ k.transpose(1, 2)).softmax(1).to(v.dtype)
        attended = (weights.transpose(1, 2) @ v.flatten(2)).unflatten(2, x.shape[2:])
        return torch.cat([F.gelu(self.local(x1)), local, attended], dim=1)
