"""Statistics before a step and after it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detrkit.engine.buffers import Statistics, persistent_buffers


class Odd(nn.Module):
    """Assigns a buffer anew, has one of another layout, one of no checkpoint, one that grows."""

    mean: Tensor
    turned: Tensor
    scratch: Tensor
    grid: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("turned", torch.arange(6.0).view(2, 3).T)
        self.register_buffer("scratch", torch.zeros(1), persistent=False)
        self.register_buffer("nothing", None)

    def forward(self, x: Tensor) -> Tensor:
        self.mean = self.mean + x.mean()
        self.turned.add_(x.mean())
        self.scratch.add_(1)
        out: Tensor = self.norm(x)
        return out


@pytest.mark.parametrize("where", [None, True, False])
def test_brought_back(where: bool | None) -> None:
    model, statistics = Odd().train(), Statistics()
    flag = None if where is None else torch.tensor(where)
    for _ in range(3):
        statistics.keep(model)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        model(
            torch.full((2, 3, 4, 4), float("nan")) if where is not False else torch.rand(2, 3, 4, 4)
        )
        changed = {name: value.clone() for name, value in model.state_dict().items()}
        assert all(not torch.equal(changed[n], before[n]) for n in ("mean", "turned"))
        assert not torch.equal(changed["norm.running_var"], before["norm.running_var"])
        statistics.bring_back(flag)
        expected = changed if where is False else before
        for name, value in model.state_dict().items():
            assert torch.equal(value, expected[name]), name
    assert model.scratch == 3
    assert model.turned.stride() == (1, 3)


def test_a_buffer_of_another_size_is_left_alone() -> None:
    model, statistics = nn.Module(), Statistics()
    model.register_buffer("grid", torch.zeros(4))
    statistics.keep(model)
    model.grid = torch.ones(9)
    statistics.bring_back()
    assert torch.equal(model.grid, torch.ones(9))
    statistics.keep(model)
    model.grid.mul_(2)
    statistics.bring_back()
    assert torch.equal(model.grid, torch.ones(9))


def test_another_model_is_followed() -> None:
    statistics = Statistics()
    for _ in range(2):
        model = nn.BatchNorm1d(2)
        statistics.keep(model)
        model(torch.rand(4, 2))
        statistics.bring_back()
        assert torch.equal(model.running_mean, torch.zeros(2))  # type: ignore[arg-type]


def test_a_model_without_any() -> None:
    statistics = Statistics()
    statistics.keep(nn.Linear(2, 2))
    statistics.bring_back()
    assert persistent_buffers(nn.Linear(2, 2)) == {}
