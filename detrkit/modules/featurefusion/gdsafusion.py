"""OverLoCK: An Overview-first-Look-Closely-next ConvNet with Context-Mixing Dynamic Kernels. Lou
and Yu, CVPR 2025, arXiv:2502.20087; its dynamic block, with the context given by a second map.

s    = R [x, c],  f = LN s                       R t = t + dw_3×3 t
v    = GRN W gelu BN dw f
w    = softmax(W_a (q · k_p) + position)         a kernel per pixel and head; q of x's part of f,
                                                 k_p of 7×7 means of c's part
z    = [w_5×5 * v_1, w_7×7 * v_2]                windows move inwards at the border
z    = W BN(silu BN W v · SE(BN W z + BN D v))   D: dilated kernels beside a 7×7
z    = R (l₁ s + z);  y = l₂ z + MLP LN z

GRN is the response norm of ConvNeXt V2, arXiv:2301.00808. Collections have the last step in the
place of the sum l₁ s + z too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct, matched
from detrkit.layers.depthwise import depthwise
from detrkit.layers.norm import LayerNorm2d
from detrkit.layers.response_norm import GlobalResponseNorm
from detrkit.layers.squeeze_excite import SqueezeExcite
from detrkit.layers.tokens import size_of
from detrkit.layers.windows import check_smallest
from detrkit.modules.conv.dilated_reparam import DilatedReparamBlock
from detrkit.ops.pooling import adaptive_average
from detrkit.registry import MODULES, Traits

#: Side of the map of context tokens.
REGIONS = 7


class ResidualDepthwise(nn.Module):
    """x + dw_3×3 x. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = depthwise(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def scale_of(channels: int, value: float) -> nn.Conv2d:
    """A factor, starting at `value`, and a bias for each channel."""
    scale = depthwise(channels, 1)
    assert scale.bias is not None
    nn.init.constant_(scale.weight, value)
    nn.init.zeros_(scale.bias)
    return scale


class ContextKernels(nn.Module):
    """Kernels of two sizes for each pixel and head, from pixels and regions.

    Args:
        channels, context_channels: C and C' of the two maps.
        num_heads: g, 2g dividing C.
        sizes: sides k of the kernels.
    """

    def __init__(
        self, channels: int, context_channels: int, num_heads: int, sizes: Sequence[int]
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.sizes = tuple(sizes)
        self.scale = (channels // num_heads) ** -0.5
        self.query = ConvNormAct(channels, channels // 2, 1)
        self.key = ConvNormAct(context_channels, channels // 2, 1)
        self.taps = nn.Conv2d(REGIONS**2, sum(k * k for k in sizes), 1)
        self.position = nn.ParameterList(
            torch.zeros(num_heads, 2 * k - 1, 2 * k - 1) for k in sizes
        )

    def forward(self, x: Tensor, context: Tensor) -> list[Tensor]:
        """(B, C, H, W), (B, C', H, W) -> a (B, g, k·k, H, W) for each size, summing to 1."""
        size = size_of(x)
        heads = (self.num_heads, -1)
        q = (self.query(x) * self.scale).flatten(2).unflatten(1, heads)
        regions = adaptive_average(context, (REGIONS, REGIONS))
        k = self.key(regions).flatten(2).unflatten(1, heads)
        affinity = (k.transpose(2, 3) @ q).flatten(0, 1).unflatten(2, size)  # (B·g, 49, H, W)
        logits = self.taps(affinity).unflatten(0, (-1, self.num_heads))
        parts = logits.split([side * side for side in self.sizes], 2)
        return [
            (part + positions(table, size)).softmax(2)
            for part, table in zip(parts, self.position, strict=True)
        ]


def starts(length: int, side: int, device: torch.device) -> Tensor:
    """First pixels of the windows around each of `length` pixels, moved inwards."""
    centred = torch.arange(length, device=device) - side // 2
    return centred.clamp(0, length - side)


def positions(table: Tensor, size: tuple[int, int]) -> Tensor:
    """A bias of each tap by its offset from the pixel: (g, 2k-1, 2k-1) -> (g, k·k, H, W)."""
    side = (table.shape[1] + 1) // 2
    offsets = [
        side - 1 + starts(length, side, table.device)[:, None]
        - torch.arange(length, device=table.device)[:, None]
        + torch.arange(side, device=table.device)
        for length in size
    ]  # fmt: skip
    rows, columns = offsets  # (H, k), (W, k)
    picked = table[:, rows[:, :, None, None], columns]  # (g, H, k, W, k)
    return picked.permute(0, 2, 4, 1, 3).flatten(1, 2)


def aggregated(values: Tensor, weights: Tensor, side: int) -> Tensor:
    """Sums windows of k × k by their pixel's weights.

    Args:
        values: (B, C, H, W).
        weights: (B, g, k·k, H, W).
        side: k.
    """
    height, width = values.shape[2:]
    values = values.unflatten(1, (weights.shape[1], -1))
    top, left = (starts(length, side, values.device) for length in (height, width))
    out = torch.zeros_like(values)
    for down in range(side):
        rows = values.index_select(3, top + down)
        for right in range(side):
            tap = weights[:, :, down * side + right, None]
            out = out + rows.index_select(4, left + right) * tap
    return out.flatten(1, 2)


@MODULES.register(
    family="featurefusion",
    paper="arXiv:2502.20087",
    venue="CVPR 2025",
    example={"in_channels": [16, 8], "out_channels": 12},
    traits=Traits(smallest=7, float32="lengths in the response norm"),
)
class GDSAFusion(nn.Module):
    """Filters a map by kernels that a context map chooses.

    [(B, C, H, W), (B, C', H, W)] -> (B, out_channels, H, W).

    Args:
        in_channels: C and C' of map and context, of one size.
        out_channels: None keeps both: C + C'.
        kernel_size, smk_size: sides of the larger and the smaller dynamic kernel, odd.
        num_heads: g; 2g divides C.
        mlp_ratio: width inside the MLP, relative to C.
        ls_init_value: initial factors l₁ and l₂.
        branches: sides and dilations of the kernels beside the large static one; None: those of
            UniRepLKNet.

    Raises:
        ValueError: not two maps, even kernels, heads that do not fit; a map with a side shorter
            than a kernel.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int | None = None,
        kernel_size: int = 7,
        smk_size: int = 5,
        num_heads: int = 2,
        *,
        mlp_ratio: float = 1.0,
        ls_init_value: float = 1.0,
        branches: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        if len(in_channels) != 2:
            raise ValueError(f"in_channels must be those of a map and its context: {in_channels}")
        c, context = self.widths = list(in_channels)
        if c % (2 * num_heads):
            raise ValueError(f"2 · num_heads must divide {c} channels, got {num_heads} heads")
        if not kernel_size % 2 or not smk_size % 2:
            raise ValueError(f"kernels must be odd, got {smk_size} and {kernel_size}")
        width, hidden = c + context, int(c * mlp_ratio)
        self.out_channels = width if out_channels is None else out_channels
        self.smallest = max(kernel_size, smk_size)
        self.mixed = ResidualDepthwise(width)
        self.norm = LayerNorm2d(width)
        self.value = nn.Sequential(
            depthwise(width, 3),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.Conv2d(width, c, 1),
            GlobalResponseNorm(c),
        )
        self.gate = ConvNormAct(c, c, 1, act="silu")
        self.local = nn.Sequential(DilatedReparamBlock(c, kernel_size, branches), nn.BatchNorm2d(c))
        self.kernels = ContextKernels(c, context, num_heads, (smk_size, kernel_size))
        self.aggregate = ConvNormAct(c, c, 1)
        self.excite = SqueezeExcite(c, max(16, c // 8), "gelu")
        self.project = nn.Sequential(nn.BatchNorm2d(c), nn.Conv2d(c, width, 1))
        self.shortcut = scale_of(width, ls_init_value)
        self.position = ResidualDepthwise(width)
        self.mlp = nn.Sequential(
            LayerNorm2d(width), nn.Conv2d(width, hidden, 1), nn.GELU(), ResidualDepthwise(hidden),
            GlobalResponseNorm(hidden), nn.Conv2d(hidden, width, 1),
        )  # fmt: skip
        self.mlp_shortcut = scale_of(width, ls_init_value)
        self.match = matched(width, self.out_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        check_smallest(maps[0], self.smallest)
        start = self.mixed(torch.cat(list(maps), 1))
        z = self.position(self.shortcut(start) + self.filtered(self.norm(start)))
        return self.match(self.fed_forward(z))

    def fed_forward(self, z: Tensor) -> Tensor:
        """The last step. (B, C + C', H, W) -> (B, C + C', H, W)."""
        return self.mlp_shortcut(z) + self.mlp(z)

    def filtered(self, f: Tensor) -> Tensor:
        """The dynamic convolution and its gates. (B, C + C', H, W) -> (B, C + C', H, W)."""
        v = self.value(f)
        kernels = self.kernels(*f.split(self.widths, 1))
        halves = zip(v.chunk(2, 1), kernels, self.kernels.sizes, strict=True)
        parts = [aggregated(*half) for half in halves]
        z = self.aggregate(torch.cat(parts, 1)) + self.local(v)
        return self.project(self.gate(v) * self.excite(z))
