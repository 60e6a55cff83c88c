"""Batch norm over the images of all processes.

Ioffe and Szegedy, ICML 2015, arXiv:1502.03167, with mean and variance over the whole batch, as in
MegDet, Peng et al., CVPR 2018, arXiv:1711.07240. On a GPU torch's own is used, which has no
version for the CPU; the one here serves there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from detrkit.engine.distributed.group import is_distributed


def with_synchronized_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with batch norms over all processes; parameters and names stay the same."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronizedBatchNorm2d
    return model


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """(B, C, H, W) -> the same, normalised over B, H and W of all processes in training."""

    def forward(self, x: Tensor) -> Tensor:
        """Every process must call it, with at least one image."""
        if not self.training or not is_distributed():
            return super().forward(x)
        self._check_input_dim(x)
        given, x = x.dtype, x.float() if x.dtype.itemsize < 4 else x
        count = x.numel() // x.shape[1]
        total = _sum(torch.cat([x.sum((0, 2, 3)), x.new_tensor([count])]))
        number = total[-1].detach()
        mean = total[:-1] / number
        centred = x - mean[:, None, None]
        variance = _sum(centred.square().sum((0, 2, 3))) / number
        if self.track_running_stats and self.running_mean is not None:
            self._follow(mean.detach(), variance.detach() * (number / (number - 1)))
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        y = centred * scale[:, None, None]
        return (y if self.bias is None else y + self.bias[:, None, None]).to(given)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def _sum(values: Tensor) -> Tensor:
    """Over all processes; the gradient is summed as well."""
    result: Tensor = _Sum.apply(values)
    return result


class _Sum(torch.autograd.Function):
    """Every process has the sum, so the slope of all processes' losses reaches each term."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        total = slope.contiguous().clone()
        dist.all_reduce(total)
        return total
