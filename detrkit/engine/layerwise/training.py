"""What a forward pass of training saves for the backward pass."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from detrkit.engine.layerwise.counting import tensors_in
from detrkit.engine.layerwise.memory import SavedBytes, beside
from detrkit.engine.layerwise.running import Calls, listening
from detrkit.engine.model_report import TrainingMemory
from detrkit.models.detector import Detector
from detrkit.structures import Target

log = logging.getLogger("detrkit.inspect")

#: Boxes in the image: COCO's mean is 7.4 in images that have any.
BOXES = 8


def training_memory(model: nn.Module, inputs: Sequence[Any]) -> TrainingMemory:
    """Runs a copy of a model in training once, forward.

    Args:
        model: unchanged. A detector gets boxes of its first class, for its denoising.
        inputs: its arguments, one image.
    """
    copied = copy.deepcopy(model).train()
    boxes = BOXES if isinstance(model, Detector) else 0
    given = list(inputs)
    if boxes:
        device = tensors_in(inputs)[0].device
        given.append([Target(torch.full((boxes, 4), 0.5), torch.zeros(boxes).long()).to(device)])
    calls = Calls()
    saved = SavedBytes(beside(copied, tensors_in(inputs)), calls)
    try:
        with (
            torch.random.fork_rng(),
            torch.enable_grad(),
            listening(copied, calls),
            saved.watching(),
        ):
            copied(*given)
    except (RuntimeError, ValueError) as error:  # e.g. a norm over one value, or memory is short
        log.debug("training memory", exc_info=True)
        return TrainingMemory(boxes, None, problem=str(error).splitlines()[0])
    return TrainingMemory(boxes, sum(saved.own.values()), saved.own)
