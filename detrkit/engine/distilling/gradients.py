"""Gradients and rates of what is trained beside the student."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from detrkit.distillation.distiller import Distiller
from detrkit.engine.distributed.group import is_distributed, mean
from detrkit.engine.distributed.replicas import unwrapped

#: Name of the adapters' group among the learning rates.
GROUP = "distillation"


def add_adapters(optimizer: Optimizer, distiller: Distiller, rate: float | None) -> None:
    """Lets the optimizer train the adapters, in a last group of their own.

    Args:
        optimizer: of the student; sets the rate where `rate` is None.
        distiller: may have none.
        rate: learning rate.
    """
    parameters = distiller.parameters()
    if not parameters:
        return
    rate = float(optimizer.defaults["lr"]) if rate is None else rate
    optimizer.add_param_group({"params": parameters, "lr": rate, "initial_lr": rate, "part": GROUP})


def finish_gradients(distiller: Distiller, model: nn.Module, max_norm: float) -> Tensor:
    """Averages over processes what the replica does not, and clips the adapters' gradients.

    They are clipped apart from the student's, whose step is then that of its own gradient.

    Args:
        distiller: behind a backward pass, gradients unscaled.
        model: may be wrapped for distributed training.
        max_norm: 0: not clipped.

    Returns:
        () zero; not a number where a gradient is not finite.
    """
    own = distiller.parameters()
    if is_distributed():
        ignored = set(getattr(model, "parameters_to_ignore", ()))
        left_out = [p for name, p in unwrapped(model).named_parameters() if name in ignored]
        _average([p.grad for p in (*own, *left_out) if p.grad is not None])
    if not own:
        return torch.zeros((), device=next(model.parameters()).device)
    return 0 * clip_grad_norm_(own, max_norm or math.inf)


def _average(gradients: list[Tensor]) -> None:
    if not gradients:
        return
    flat = mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
