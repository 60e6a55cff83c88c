"""Diverse Branch Block: Building a Convolution as an Inception-like Unit. Ding et al., CVPR 2021,
arXiv:2103.13425.

y = BN(K x) + BN(1×1 x) + BN(avg(BN(1×1 x))) + BN(K BN(1×1 x))

Every branch is linear in evaluation, so that their sum is one K×K convolution: batch norms fold
into kernels (transform I), kernels of branches add up (II), a 1×1 kernel goes into the one
behind it (III), an average is a constant kernel (V), and 1×1 is K×K with a border of zeros (VI).
Without dilation, which the authors' code accepts and cannot fuse.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.activations import get_activation
from detrkit.layers.conv import ConvNormAct, centred_kernel, convolution_of, fused_weights
from detrkit.registry import MODULES, Traits

#: Kernel and bias.
Weights = tuple[Tensor, Tensor]


class PaddedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm, then a border of what a zero becomes in it. (B, C, H, W) -> (B, C, H+2p, W+2p).

    A convolution with zeros around, whose input has a norm, is the same as one without that has
    this norm. The border follows the running statistics, in training too.

    Args:
        num_features: C.
        padding: p.
    """

    def __init__(self, num_features: int, padding: int) -> None:
        super().__init__(num_features)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        zero = self.bias - self.running_mean * self.weight / (self.running_var + self.eps).sqrt()
        zero = zero.to(x.dtype)[:, None, None]
        return F.pad(x - zero, [self.padding] * 4) + zero


class PlainBranch(ConvNormAct):
    """A convolution of any odd sides and a norm."""

    def weights(self, size: int) -> Weights:
        """As a convolution of `size` × `size`."""
        kernel, bias = fused_weights(self.conv, self.norm)
        return centred_kernel(kernel, size), bias


class AverageBranch(nn.Module):
    """1×1, norm, average over the window, norm; of a depthwise block the average and a norm."""

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int, groups: int):
        super().__init__()
        self.groups = groups
        mixes = groups < out_channels
        if mixes:
            self.conv = nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False)
            self.inner = PaddedBatchNorm2d(out_channels, size // 2)
        self.pool = nn.AvgPool2d(size, stride, 0 if mixes else size // 2)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if "conv" in self._modules:
            x = self.inner(self.conv(x))
        return self.norm(self.pool(x))

    def weights(self, size: int) -> Weights:
        """As a convolution of `size` × `size`."""
        channels = self.norm.num_features
        window = torch.eye(channels // self.groups, dtype=self.norm.weight.dtype)
        window = window.to(self.norm.weight.device).repeat(self.groups, 1)[..., None, None]
        average = convolution_of(
            window.expand(-1, -1, size, size) / size**2,
            torch.zeros_like(self.norm.bias),
            groups=self.groups,
        )
        second = fused_weights(average, self.norm)
        if "conv" not in self._modules:
            return second
        return _one_after_another(fused_weights(self.conv, self.inner), second, self.groups)


class SequentialBranch(nn.Module):
    """1×1, norm, K×K, norm. Of equal widths the 1×1 kernel is the identity and a learnt rest."""

    identity: Tensor

    def __init__(
        self, in_channels: int, inner: int, out_channels: int, size: int, stride: int, groups: int
    ):
        super().__init__()
        self.groups = groups
        self.first = nn.Conv2d(in_channels, inner, 1, groups=groups, bias=False)
        identity = torch.zeros_like(self.first.weight)
        if inner == in_channels:
            nn.init.zeros_(self.first.weight)
            nn.init.dirac_(identity, groups)
        self.register_buffer("identity", identity, persistent=False)
        self.inner = PaddedBatchNorm2d(inner, size // 2)
        self.second = nn.Conv2d(inner, out_channels, size, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.first.weight + self.identity, groups=self.groups)
        return self.norm(self.second(self.inner(x)))

    def weights(self, size: int) -> Weights:
        """As a convolution of `size` × `size`."""
        kernel = self.first.weight + self.identity
        first = convolution_of(kernel, kernel.new_zeros(len(kernel)), groups=self.groups)
        return _one_after_another(
            fused_weights(first, self.inner), fused_weights(self.second, self.norm), self.groups
        )


def _one_after_another(first: Weights, second: Weights, groups: int) -> Weights:
    """A 1×1 convolution and one behind it, as one; the widths between them do not overlap."""
    kernel = second[0].unflatten(0, (groups, -1))  # (g, out, mid, k, k)
    mix = first[0].flatten(1).unflatten(0, (groups, -1))  # (g, mid, in)
    shift = first[1].unflatten(0, (groups, -1))  # (g, mid)
    bias = torch.einsum("gomhw,gm->go", kernel, shift).flatten() + second[1]
    return torch.einsum("gomhw,gmi->goihw", kernel, mix).flatten(0, 1), bias


@MODULES.register(
    family="conv",
    paper="arXiv:2103.13425",
    venue="CVPR 2021",
    example={"in_channels": 16, "out_channels": 24, "groups": 2},
    traits=Traits(),
)
class DiverseBranchBlock(nn.Module):
    """Four branches in training, one convolution afterwards. (B, in, H, W) -> (B, out, H/s, W/s).

    Args:
        in_channels: C.
        out_channels: width of the result; None keeps C.
        kernel_size: K, odd.
        stride, groups: s and the groups of the convolution it becomes.
        internal_channels: width within the fourth branch; None: C, twice C of a depthwise block.
        act: activation of the sum.

    Raises:
        ValueError: K is even.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        *,
        internal_channels: int | None = None,
        act: str | nn.Module | None = None,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.out_channels = out = out_channels or in_channels
        self.kernel_size, self.stride, self.groups = kernel_size, stride, groups
        depthwise = groups == out
        inner = internal_channels or (2 * in_channels if depthwise else in_channels)
        branches: list[nn.Module] = [PlainBranch(in_channels, out, kernel_size, stride, groups)]
        if not depthwise:
            branches.append(PlainBranch(in_channels, out, 1, stride, groups))
        branches += [
            AverageBranch(in_channels, out, kernel_size, stride, groups),
            SequentialBranch(in_channels, inner, out, kernel_size, stride, groups),
        ]
        self.branches = nn.ModuleList(branches)
        self.act = get_activation(act)

    in_a_row = ("conv", "act")

    def forward(self, x: Tensor) -> Tensor:
        if "conv" in self._modules:
            return self.act(self.conv(x))
        first, *others = self.branches
        total = first(x)
        for branch in others:
            total = total + branch(x)
        return self.act(total)

    def weights(self, size: int) -> Weights:
        """The sum of the branches, as a convolution of `size` × `size`."""
        if "conv" in self._modules:
            assert self.conv.bias is not None
            return self.conv.weight, self.conv.bias
        # ModuleList forgets that these are branches
        parts = [branch.weights(size) for branch in self.branches]  # type: ignore[operator]
        kernels, biases = zip(*parts, strict=True)
        return torch.stack(kernels).sum(0), torch.stack(biases).sum(0)

    def convert_to_deploy(self) -> None:
        """Sums the branches into one convolution."""
        if "conv" in self._modules:
            return
        self.conv = convolution_of(*self.weights(self.kernel_size), self.stride, self.groups)
        del self.branches
