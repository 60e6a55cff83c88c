"""The model in DistributedDataParallel (Li et al., VLDB 2020, arXiv:2006.15704).

A parameter without gradient makes the other processes wait for ever, or fails with a message
that few understand. So the model is tried out first, once with boxes and once without: what never
gets a gradient is left out of the exchange, and only where it depends on the boxes the graph is
searched in every step (`find_unused_parameters`).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detrkit.engine.distributed.group import copy_from_main, is_distributed, shared
from detrkit.engine.distributed.sync_bn import with_synchronized_norms
from detrkit.ops.precision import upcast
from detrkit.structures import Target

log = logging.getLogger("detrkit")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, or itself."""
    if isinstance(model, DistributedDataParallel):
        inner: nn.Module = model.module
        return inner
    return model


@dataclass(frozen=True)
class Unused:
    """Parameters that a training step gives no gradient.

    Attributes:
        always: with boxes as without.
        sometimes: in only one of the two cases.
    """

    always: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()


def replicated(
    model: nn.Module,
    criterion: nn.Module,
    *,
    device: torch.device,
    size: tuple[int, int],
    sync_bn: bool = False,
    find_unused: bool = False,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> nn.Module:
    """The model as one of several equal ones: all get the weights of the main process.

    In a single process the model comes back as it is.

    Args:
        model: on its device, in training mode.
        criterion: (outputs, targets) -> losses.
        device: of this process.
        size: (h, w) of the images.
        sync_bn: batch norm over the images of all processes.
        find_unused: search the graph in every step, whatever the trial says.
        autocast: the context of a forward pass.
    """
    if not is_distributed():
        return model
    unused = find_unused_parameters(model, criterion, device=device, size=size, autocast=autocast)
    # Every process tried; one decides, since they must agree.
    unused = shared(lambda: unused)
    if unused.always:
        log.debug("without gradient: %s", ", ".join(unused.always))
    if unused.sometimes:
        log.debug("without gradient in some batches: %s", ", ".join(unused.sometimes))
    if sync_bn:
        model = with_synchronized_norms(model, device)
    copy_from_main(model.state_dict().values())
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, list(unused.always))
    for harmless in ("find_unused_parameters=True was specified", "Grad strides do not match"):
        warnings.filterwarnings("ignore", message=harmless)
    return DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        find_unused_parameters=find_unused or bool(unused.sometimes),
    )


def find_unused_parameters(
    model: nn.Module,
    criterion: nn.Module,
    *,
    device: torch.device,
    size: tuple[int, int],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Unused:
    """Tries two training steps on a copy of the model. Every process must call it.

    Args:
        model, criterion, device, size, autocast: as in `replicated`.
    """
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    without: list[set[str]] = []
    for boxes in (2, 0):
        copy = deepcopy(model).train()
        images = torch.rand(2, 3, *size, device=device)
        box = torch.tensor([[0.4, 0.4, 0.3, 0.3], [0.6, 0.6, 0.2, 0.4]], device=device)[:boxes]
        labels = torch.zeros(boxes, dtype=torch.int64, device=device)
        targets = [Target(box, labels), Target(box[:0], labels[:0])]
        with autocast():
            outputs = copy(images, targets)
        losses = criterion(upcast(outputs), targets)
        torch.stack(list(losses.values())).sum().backward()
        used = {name for name, p in copy.named_parameters() if p.grad is not None}
        without.append(trainable - used)
    with_boxes, empty = without
    return Unused(tuple(sorted(with_boxes & empty)), tuple(sorted(with_boxes ^ empty)))
