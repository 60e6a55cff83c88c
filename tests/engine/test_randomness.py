"""Repeatable sums, and seeds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detrkit.engine.randomness import fixed_order, mix, seed_step


def gradients(times: int) -> list[Tensor]:
    """Of rows that are picked several times each: their sum depends on the order."""
    torch.manual_seed(0)
    x = torch.randn(1200, 132, requires_grad=True)
    index = torch.randint(0, 400, (3000,))
    weight = torch.randn(3000, 132)
    return [torch.autograd.grad((x[index] * weight).sum(), x)[0] for _ in range(times)]


@pytest.mark.usefixtures("two_threads")
def test_gradients_of_picked_rows_repeat() -> None:
    with fixed_order(torch.device("cpu")):
        first, *others = gradients(10)
    assert all(torch.equal(first, other) for other in others)


def fail_in_fixed_order() -> None:
    with fixed_order(torch.device("cpu")):
        assert torch.are_deterministic_algorithms_enabled()
        raise KeyError


def test_the_setting_is_put_back() -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    with fixed_order(torch.device("cuda")):
        assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(KeyError):
        fail_in_fixed_order()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_a_step_draws_the_same_whatever_came_before() -> None:
    seed_step(1, 2)
    first = torch.rand(3)
    torch.rand(5)
    seed_step(1, 2)
    assert torch.equal(first, torch.rand(3))
    assert len({mix(0, 1), mix(1, 0), mix(0, 1, 0), mix(1)}) == 4
