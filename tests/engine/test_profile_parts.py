"""Forward and backward of the parts of a model, from a profile."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from detrkit.engine.observers.profile_parts import LOSSES, MarkedParts, part_times
from detrkit.phases import phase


class SlowBackward(torch.autograd.Function):
    """The identity, whose gradient takes its time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: float) -> Tensor:
        ctx.seconds = seconds
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        time.sleep(ctx.seconds)
        return gradient, None


class Part(nn.Module):
    def __init__(self, backward: float, forward: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.seconds = (forward, backward)

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds[0])
        out: Tensor = SlowBackward.apply(self.linear(x), self.seconds[1])
        return out


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.neck, self.body = Part(0.01), Part(0.0), Part(0.03, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.neck(self.body(x)))
        return out


def test_backward_belongs_to_the_part_that_ran_forward() -> None:
    model = Model()
    marks = MarkedParts(model)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(2):
            with phase("forward"):
                out = model(torch.ones(1, 4))
            with phase("loss"):
                loss = SlowBackward.apply(out.square().sum(), 0.02)
            with phase("backward"):
                loss.backward()
    marks.close()
    found = part_times(profiled.events())
    assert list(found.forward) == ["body", "neck", "head"]  # as they ran
    assert found.forward["body"] >= 20
    assert set(found.backward) == {LOSSES, "head", "neck", "body"}
    assert found.backward["body"] >= 60
    assert 40 <= found.backward[LOSSES] < 60
    assert 20 <= found.backward["head"] < 40
    assert found.backward["neck"] < 20
    assert not any(part._forward_hooks for part in model.children())


def test_a_part_that_fails_leaves_no_mark_open() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    marks = MarkedParts(model)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        with contextlib.suppress(RuntimeError):
            model(torch.ones(1, 3))
        model(torch.ones(1, 4))
    marks.close()
    assert set(part_times(profiled.events()).forward) == {"0"}
