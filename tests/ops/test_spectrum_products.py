"""Transforms as matrix products, which exports are made of."""

from __future__ import annotations

import pytest
import torch

from detrkit.ops import spectrum
from tests.modules.naive import image, same


@pytest.fixture
def exporting(monkeypatch):
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (1, 6)])
def test_products_are_the_transform(exporting, size):
    x = image(2, 3, *size)
    real, imaginary = spectrum.fft2_parts(x)
    same(torch.complex(real, imaginary), torch.fft.fft2(x))
    weight = image(3, *size, seed=2)
    real, imaginary = real * weight, imaginary - weight
    expected = torch.fft.ifft2(torch.complex(real, imaginary)).abs()
    same(spectrum.ifft2_magnitude(real, imaginary), expected)


def test_magnitude_of_nothing_has_a_gradient():
    real, imaginary = torch.zeros(3, requires_grad=True), torch.zeros(3)
    spectrum.magnitude(real, imaginary).sum().backward()
    assert real.grad is not None
    assert not real.grad.any()
