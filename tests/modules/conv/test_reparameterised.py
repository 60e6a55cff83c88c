"""Blocks that become one convolution, against their equations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.modules.conv.dbb import PaddedBatchNorm2d
from detrkit.modules.conv.dilated_reparam import BRANCHES, undilated
from detrkit.registry import MODULES
from tests.modules.naive import image, made, moved, same

BLOCKS = [
    ("DiverseBranchBlock", {"out_channels": 12}),
    ("DiverseBranchBlock", {"out_channels": 12, "groups": 4, "stride": 2, "kernel_size": 5}),
    ("DiverseBranchBlock", {"groups": 8}),
    ("WideDiverseBranchBlock", {"out_channels": 12, "stride": 2}),
    ("DeepDiverseBranchBlock", {"groups": 2}),
    ("DEConv", {}),
    ("DEConv", {"act": "silu"}),
    ("DCNv2", {"out_channels": 6, "stride": 2}),
    ("DilatedReparamBlock", {"kernel_size": 9}),
    ("ReparamLargeKernelConv", {"groups": 2}),
    ("MBRConv1", {"out_channels": 6}),
    ("MBRConv3", {"out_channels": 6}),
    ("MBRConv5", {"rep_scale": 2}),
    ("SMPConv", {}),
    ("SMPCNN", {"kernel_size": 7}),
]


@pytest.mark.parametrize(("name", "arguments"), BLOCKS)
def test_deployed_twice_it_is_the_same(name: str, arguments: dict[str, object]) -> None:
    module, x = made(name, in_channels=8, **arguments), image(2, 8, 11, 13)
    with torch.no_grad():
        expected = module(x)
        for _ in range(2):
            for layer in list(module.modules()):
                if hasattr(layer, "convert_to_deploy"):
                    layer.convert_to_deploy()
        same(module(x), expected)
    assert len([m for m in module.modules() if isinstance(m, nn.Conv2d)]) <= 2


def test_a_padded_norm_has_the_border_of_a_padded_input() -> None:
    norm = moved(PaddedBatchNorm2d(3, 2))
    x = image(2, 3, 4, 5)
    plain = F.batch_norm(
        F.pad(x, [2] * 4), norm.running_mean, norm.running_var, norm.weight, norm.bias
    )
    same(norm(x), plain)


def test_diverse_branches_by_hand() -> None:
    block, x = made("DiverseBranchBlock", in_channels=4, out_channels=6), image(1, 4, 5, 6)
    origin, point, average, sequence = block.branches
    mean = F.avg_pool2d(average.inner(average.conv(x)), 3, 1)
    first = sequence.first.weight + torch.eye(4)[..., None, None]
    deep = F.conv2d(sequence.inner(F.conv2d(x, first)), sequence.second.weight)
    same(
        block(x),
        origin.norm(F.conv2d(x, origin.conv.weight, padding=1))
        + point.norm(F.conv2d(x, point.conv.weight))
        + average.norm(mean)
        + sequence.norm(deep),
    )


def test_a_depthwise_block_has_no_pointwise_branch() -> None:
    block = made("DiverseBranchBlock", in_channels=4, groups=4)
    assert len(block.branches) == 3
    assert block.branches[2].first.out_channels == 8


def test_wide_and_deep_blocks_have_their_branches() -> None:
    wide = made("WideDiverseBranchBlock", in_channels=4)
    assert [b.conv.kernel_size for b in list(wide.branches)[-2:]] == [(3, 1), (1, 3)]
    deep = made("DeepDiverseBranchBlock", in_channels=4)
    x = image(1, 4, 5, 5)
    same(deep(x), F.silu(sum(branch(x) for branch in deep.branches)))
    assert len(deep.branches[0].branches) == 4


def test_detail_enhanced_kernels_by_place() -> None:
    conv = made("DEConv", in_channels=3)
    w, a = conv.central.flatten(2), conv.angular.flatten(2)
    expected = w + conv.plain.flatten(2)
    expected[..., 4] -= w.sum(-1)
    for place, row_column in enumerate((r, c) for r in range(3) for c in range(3)):
        row, column = row_column
        expected[..., place] += (1 - column) * conv.horizontal[..., row]
        expected[..., place] += (1 - row) * conv.vertical[..., column]
        expected[..., place] += a[..., place] - a[..., (3, 0, 1, 6, 4, 2, 7, 8, 5)[place]]
    same(conv.kernel().flatten(2), expected)
    flat = torch.ones(1, 3, 7, 7).double()  # differences of a constant are zero
    inner = conv(flat)[..., 2:-2, 2:-2]
    plain = F.conv2d(flat, conv.plain, conv.bias(), padding=1)[..., 2:-2, 2:-2]
    same(inner, plain)


@pytest.mark.parametrize("size", list(BRANCHES))
def test_dilated_kernels_fit_within_the_large_one(size: int) -> None:
    block, x = made("DilatedReparamBlock", in_channels=2, kernel_size=size), image(1, 2, 9, 7)
    total = block.large.norm(F.conv2d(x, block.large.conv.weight, padding=size // 2, groups=2))
    for branch, (side, rate) in zip(block.dilated, BRANCHES[size], strict=True):
        assert rate * (side - 1) + 1 <= size
        padding = rate * (side - 1) // 2
        y = F.conv2d(x, branch.conv.weight, padding=padding, dilation=rate, groups=2)
        total = total + branch.norm(y)
    same(block(x), total)


def test_an_undilated_kernel_does_the_same() -> None:
    x, kernel = image(1, 2, 12, 12), image(3, 2, 3, 3)
    same(F.conv2d(x, undilated(kernel, 3)), F.conv2d(x, kernel, dilation=3))


def test_multi_branch_convolution_by_hand() -> None:
    block, x = made("MBRConv3", in_channels=4, out_channels=2), image(1, 4, 5, 6)
    plain = [
        F.conv2d(x, c.weight, c.bias, padding=(c.weight.shape[2] // 2, c.weight.shape[3] // 2))
        for c in block.convs
    ]
    both = torch.cat(plain + [norm(u) for norm, u in zip(block.norms, plain, strict=True)], 1)
    same(block(x), F.conv2d(both, block.mix.weight, block.mix.bias))


def shift_wise(module: nn.Module, x: Tensor, size: int, small: int) -> Tensor:
    """The sheet's words: pieces, gates, shifts along one side; pixel by pixel."""
    count, middle = -(-size // small), size // 2
    left, right = middle % small, (count * small - middle - 1) % small
    padding = left
    while padding < right:
        padding += small
    while padding < small - 1:
        padding += small
    first = -(-(middle + 1) // small) - (padding - left) // small
    height, width = x.shape[-2:]
    pieces = F.conv2d(x, module.pieces.weight, padding=padding, groups=module.pieces.groups)
    total = module.small(x)
    crop = padding - small // 2
    for gate, norm, across in zip(module.gates, module.norms, (True, False), strict=True):
        gated = pieces * gate.sigmoid()
        band = torch.zeros(1, module.out_channels, height, width).double()
        for o in range(module.out_channels):
            for i in range(count):
                shift, piece = (i + 1 - first) * small, gated[0, o * count + i]
                for r in range(height):
                    for c in range(width):
                        row, column = (r + crop, c + shift) if across else (r + shift, c + crop)
                        if 0 <= row < piece.shape[0] and 0 <= column < piece.shape[1]:
                            band[0, o, r, c] += piece[row, column]
        total = total + norm(band)
    return total


@pytest.mark.parametrize(("size", "small"), [(13, 5), (7, 3), (21, 3)])
def test_shifted_pieces_pixel_by_pixel(size: int, small: int) -> None:
    module = made("ShiftwiseConv", in_channels=2, kernel_size=size, small_kernel=small)
    x = image(1, 2, 6, 5)
    with torch.no_grad():
        same(module(x), shift_wise(module, x, size, small))


def test_points_make_a_kernel() -> None:
    module = made("SMPConv", in_channels=2, kernel_size=5, n_points=3)
    module.radius.data = torch.tensor([0.5, 1.7, 1e-6]).double().view(1, 3, 1, 1)
    module.requires_grad_(False)
    u = [-1 + 2 * i / 4 for i in range(5)]
    radius = (0.5, 1.0, 1e-3)  # clipped
    for channel in range(2):
        for row in range(5):
            for column in range(5):
                expected = 0.0
                for n in range(3):
                    p = module.places[0, n]
                    # the matrix is turned, then mirrored: first coordinate along, second upwards
                    distance = abs(float(p[0]) - u[column]) + abs(float(p[1]) - u[4 - row])
                    factor = max(0.0, 1 - distance / radius[n])
                    expected += float(module.weight[0, channel, n]) * factor
                assert float(module.kernel()[channel, 0, row, column]) == pytest.approx(expected)


def test_a_clipped_radius_still_learns() -> None:
    module = made("SMPConv", in_channels=2, kernel_size=5, n_points=1)
    with torch.no_grad():
        module.places.zero_()
        module.radius.fill_(1.5)
    module.kernel().square().sum().backward()
    assert module.radius.grad.abs() > 0


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("DiverseBranchBlock", {"kernel_size": 4}, "4"),
        ("DilatedReparamBlock", {"kernel_size": 6}, "6"),
        ("ShiftwiseConv", {"kernel_size": 5, "small_kernel": 5}, "5"),
        ("ReparamLargeKernelConv", {"kernel_size": 8}, "8"),
        ("SMPConv", {"kernel_size": 8}, "8"),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MODULES.create(name, in_channels=8, **arguments)
