"""Wavelets against their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detrkit.ops.wavelets import analyse, even, synthesise, wavelet_bank


def test_haar_is_sums_and_differences() -> None:
    x = torch.randn(2, 3, 4, 6)
    a, b, c, d = (x[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
    bands = analyse(x, wavelet_bank())
    for band, expected in enumerate((a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d)):
        assert torch.allclose(bands[:, :, band], expected / 2, atol=1e-6)


def test_second_daubechies_is_the_published_one() -> None:
    root = np.sqrt(3)
    expected = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * np.sqrt(2))
    low = wavelet_bank("db2")[0, 0].double().numpy()
    assert np.allclose(low, np.outer(expected, expected), atol=1e-6)


@pytest.mark.parametrize("name", ["haar", "db1", "db2", "db4", "db7", "db10"])
def test_filters_are_orthonormal(name: str) -> None:
    bank = wavelet_bank(name)[:, 0].double()
    gram = torch.einsum("ahw,bhw->ab", bank, bank)
    assert torch.allclose(gram, torch.eye(4).double(), atol=1e-5)
    for shift in range(2, bank.shape[-1], 2):  # and to themselves, moved by two
        assert torch.einsum("ahw,bhw->ab", bank[..., shift:], bank[..., :-shift]).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["haar", "db3"])
def test_synthesis_inverts_analysis(name: str) -> None:
    x, bank = torch.randn(1, 2, 32, 24), wavelet_bank(name)
    border = bank.shape[-1] - 2
    difference = (synthesise(analyse(x, bank), bank) - x).abs()
    assert difference[..., border : 32 - border, border : 24 - border].max() < 1e-5


def test_a_bank_for_each_channel_is_the_same() -> None:
    x, bank = torch.randn(1, 3, 6, 6), wavelet_bank("db2")
    assert torch.equal(analyse(x, bank), analyse(x, bank.repeat(3, 1, 1, 1)))


def test_odd_sides_become_even() -> None:
    assert even(torch.ones(1, 1, 5, 4)).shape == (1, 1, 6, 4)
    assert even(torch.ones(1, 1, 5, 4))[0, 0, 5].eq(0).all()


@pytest.mark.parametrize("name", ["db0", "db11", "sym2", "db", "db-1"])
def test_an_unknown_wavelet_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        wavelet_bank(name)
