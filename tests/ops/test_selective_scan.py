"""The selective scan against the recurrence, step by step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detrkit.ops import selective_scan as module
from detrkit.ops.selective_scan import linear_recurrence, selective_scan
from tests.ops.naive_scan import stepwise


def arguments(length: int, groups: int = 2, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """For 2 images, 2 channels in a group and 3 states."""
    generator = torch.Generator().manual_seed(length)
    width = 2 * groups
    shapes = [(2, width, length)] * 2 + [(width, 3)] + [(2, groups, 3, length)] * 2 + [(width,)] * 2
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    tensors[2] = -tensors[2].exp()
    return tensors


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 13])
def test_it_is_the_recurrence(length: int) -> None:
    given = arguments(length)
    assert torch.allclose(selective_scan(*given), stepwise(*given), rtol=1e-10)


def test_chunks_go_on_where_the_last_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(13)
    expected = selective_scan(*given)
    monkeypatch.setattr(module, "CPU_CHUNK", 5)
    assert torch.allclose(selective_scan(*given), expected, rtol=1e-10)


def test_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CPU_CHUNK", 4)
    given = [x.requires_grad_() for x in (t.detach() for t in arguments(6, groups=1))]
    assert torch.autograd.gradcheck(selective_scan, given)


def test_recurrence_has_second_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(5, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    given = (a.requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradcheck(linear_recurrence, given)
    assert torch.autograd.gradgradcheck(linear_recurrence, given)


def test_gradients_are_those_of_the_steps() -> None:
    given = [t.requires_grad_() for t in arguments(9)]
    weights = torch.randn(given[0].shape, generator=torch.Generator().manual_seed(4)).double()
    ours = torch.autograd.grad((selective_scan(*given) * weights).sum(), given)
    theirs = torch.autograd.grad((stepwise(*given) * weights).sum(), given)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("size", [-30.0, 60.0])
def test_long_sequences_stay_finite(size: float) -> None:
    """Products of 5000 factors near 0, or near 1, in float32."""
    u, dt, A, B, C, D, bias = arguments(5000, groups=1, dtype=torch.float32)
    dt = torch.full_like(dt, size).requires_grad_()
    y = selective_scan(u, dt, 16 * A, B, C, D, bias)
    y.sum().backward()
    assert y.isfinite().all()
    assert dt.grad is not None
    assert dt.grad.isfinite().all()


def test_float32_is_near_float64_on_long_sequences() -> None:
    given = arguments(4096, groups=1)
    exact = selective_scan(*given)
    error = (selective_scan(*(t.float() for t in given)) - exact).abs().max()
    assert error <= 1e-5 * exact.abs().max()


def test_half_precision_is_scanned_in_single() -> None:
    given = arguments(64, dtype=torch.float32)
    half = [t.bfloat16() for t in given]
    with torch.autocast("cpu", torch.bfloat16):
        y = selective_scan(*half)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, selective_scan(*(t.float() for t in half)).bfloat16())
