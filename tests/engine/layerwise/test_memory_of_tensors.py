"""Bytes of tensors, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.engine.layerwise.memory import kept_by, peak_of
from detrkit.engine.module_catalogue import measure
from detrkit.registry import MODULES

#: Bytes of a map.
MAP = 4 * 2 * 8 * 6 * 5


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 8, 6, 5)


@torch.no_grad()
def test_the_peak_is_what_lives_at_once(x: Tensor) -> None:
    assert peak_of(lambda: x.sin(), [x]) == MAP
    assert peak_of(lambda: x.sin().cos().exp(), [x]) == 2 * MAP  # one lives, one is made
    assert peak_of(lambda: torch.cat([x.sin(), x.cos()]).sum(), [x]) == 4 * MAP
    assert peak_of(lambda: F.interpolate(x, scale_factor=2), [x]) == 4 * MAP
    peaks = [peak_of(lambda: [x.sin() for _ in range(n)], [x]) for n in (1, 5)]  # noqa: B023
    assert peaks == [MAP, 5 * MAP]


@torch.no_grad()
def test_views_and_what_is_written_in_place_cost_nothing(x: Tensor) -> None:
    assert peak_of(lambda: x.transpose(1, 2)[:, :2].unsqueeze(0), [x]) == 0
    assert peak_of(lambda: x.sin().relu_().mul_(2).view(-1), [x]) == MAP


def test_kept_is_what_the_gradients_need(x: Tensor) -> None:
    x.requires_grad_()
    assert kept_by(lambda: x + 1, [x]) == 0
    assert kept_by(lambda: x.sin(), [x]) == 0  # the input alone
    assert kept_by(lambda: x.exp(), [x]) == MAP
    assert kept_by(lambda: x.exp().sin(), [x]) == MAP  # twice the same
    layer = nn.Conv2d(8, 8, 1)
    beside = [x, *layer.parameters()]
    assert kept_by(lambda: layer(layer(x)), beside) == MAP
    assert kept_by(lambda: layer(x), [x]) == sum(4 * p.numel() for p in [layer.weight])


def test_own_functions_count(x: Tensor) -> None:
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x.square())
            return x**3

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return 3 * ctx.saved_tensors[0] * gradients[0]

    x.requires_grad_()
    assert kept_by(lambda: Cube.apply(x), [x]) == MAP


def test_of_a_module() -> None:
    cost = measure(MODULES.get("Upsample"))
    assert (cost.peak_bytes, cost.kept_bytes) == (4 * 64 * 80 * 80, 0)
