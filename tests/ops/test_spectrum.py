"""Filters of frequencies against transforms."""

from __future__ import annotations

import pytest
import torch

from detrkit.ops.spectrum import frequencies, irfft2, low_pass, rfft2, split_bands


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (4, 9)])
def test_low_pass_is_a_masked_spectrum(size: tuple[int, int]) -> None:
    """Whatever the factors: neither symmetric nor 0 and 1."""
    x = torch.randn(2, 3, *size).double()
    rows, columns = (torch.rand(n).double() for n in size)
    spectrum = torch.fft.fft2(x) * rows[:, None] * columns
    assert torch.allclose(low_pass(x, rows, columns), torch.fft.ifft2(spectrum).real)


def test_bands_add_up() -> None:
    x = torch.randn(1, 2, 8, 6)
    masks = [
        ((frequencies(8, x).abs() < f).float(), (frequencies(6, x).abs() < f).float())
        for f in (0.4, 0.2)
    ]
    bands = split_bands(x, masks)
    assert len(bands) == 3
    assert torch.allclose(torch.stack(bands).sum(0), x, atol=1e-5)
    assert torch.allclose(low_pass(x, *masks[1]), bands[2])


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_frequencies_are_numpys(length: int) -> None:
    assert torch.allclose(frequencies(length, torch.ones(1)), torch.fft.fftfreq(length))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_transforms_take_every_precision(dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, 5, 6).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        back = irfft2(rfft2(x, "ortho"), (5, 6), "ortho")
    assert back.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.allclose(back.double(), x.double(), atol=1e-5)
