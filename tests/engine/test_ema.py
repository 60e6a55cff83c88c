"""Averaged weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from detrkit.engine.ema import ModelEMA


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def test_follows_the_formula() -> None:
    model = net()
    ema = ModelEMA(model, decay=0.9, warmups=10)
    expected = {k: v.clone() for k, v in model.state_dict().items()}
    for step in range(1, 6):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1.0)
        model[1].running_mean += 2.0  # type: ignore[index, operator]
        ema.update(model)
        d = 0.9 * (1 - math.exp(-step / 10))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = expected[name] * d + value * (1 - d)
    for name, value in ema.module.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())


def test_start_and_constant_decay() -> None:
    model = net()
    ema = ModelEMA(model, decay=0.5, warmups=0, start=2)
    with torch.no_grad():
        model[0].weight.fill_(1.0)  # type: ignore[index, union-attr, operator]
    before = ema.module[0].weight.clone()  # type: ignore[index, union-attr, operator]
    ema.update(model)
    ema.update(model)
    assert torch.equal(ema.module[0].weight, before)  # type: ignore[index, union-attr, arg-type]
    ema.update(model)
    torch.testing.assert_close(ema.module[0].weight, before * 0.5 + 0.5)  # type: ignore[index, union-attr]
    assert ema.decay_now() == 0.5


def test_state_round_trip_goes_on_the_same() -> None:
    model = net()
    a, b = ModelEMA(model, 0.9, 10), ModelEMA(net(), 0.9, 10)
    for _ in range(3):
        with torch.no_grad():
            model[0].weight.mul_(1.1)  # type: ignore[index, union-attr, operator]
        a.update(model)
    b.load_state_dict(a.state_dict())
    a.update(model)
    b.update(model)
    assert a.updates == b.updates == 4
    for x, y in zip(a.module.state_dict().values(), b.module.state_dict().values(), strict=True):
        assert torch.equal(x, y)


def test_reads_the_authors_state() -> None:
    ema = ModelEMA(net(), start=1)
    ema.load_state_dict({"module": net().state_dict(), "updates": 7})
    assert (ema.updates, ema.skipped) == (7, 1)


def test_shared_and_replaced_tensors() -> None:
    """A shared tensor is averaged once; a buffer that was assigned anew is followed."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2, bias=False)
            self.b = nn.Linear(2, 2, bias=False)
            self.b.weight = self.a.weight
            self.register_buffer("statistic", torch.zeros(1))
            self.register_buffer("cache", torch.zeros(1), persistent=False)

    model = Shared()
    ema = ModelEMA(model, decay=0.5, warmups=0)
    before = model.a.weight.detach().clone()
    ema.update(model)
    with torch.no_grad():
        model.a.weight += 1.0
    model.statistic = torch.ones(1)
    model.cache = torch.ones(1)
    ema.update(model)
    torch.testing.assert_close(ema.module.a.weight, before + 0.5)  # type: ignore[union-attr]
    assert ema.module.b.weight is ema.module.a.weight  # type: ignore[union-attr]
    assert float(ema.module.statistic) == 0.5  # type: ignore[arg-type]
    assert float(ema.module.cache) == 0.0  # type: ignore[arg-type]


def test_decay_outside_0_1() -> None:
    with pytest.raises(ValueError, match="decay"):
        ModelEMA(net(), decay=1.5)
