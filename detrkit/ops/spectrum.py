"""Fourier transforms of maps, and filters of bands of frequencies.

Transforms know neither bfloat16 nor, at most sizes, float16: here they run in float32 whatever
the map's precision and autocast say. ONNX knows no complex numbers, so band filters, whose masks
are products of a mask for the rows and one for the columns, are real matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detrkit.ops.precision import precise


def rfft2(x: Tensor, norm: str = "backward") -> Tensor:
    """(…, H, W) real of any precision -> (…, H, W // 2 + 1) complex."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.fft.rfft2(precise(x), norm=norm)


def irfft2(spectrum: Tensor, size: Sequence[int], norm: str = "backward") -> Tensor:
    """(…, H, W // 2 + 1) complex -> (…, H, W) real; `size` is (H, W)."""
    with torch.autocast(spectrum.device.type, enabled=False):
        return torch.fft.irfft2(spectrum, s=tuple(size), norm=norm)


def fft2_parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the transform of real maps; in an export, as matrix products.

    Args:
        x: (…, H, W).

    Returns:
        two (…, H, W) in at least float32.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = precise(x)
        if not torch.onnx.is_in_onnx_export():
            spectrum = torch.fft.fft2(x)
            return spectrum.real, spectrum.imag
        return _products(x, torch.zeros_like(x), inverse=False)


def ifft2_magnitude(real: Tensor, imaginary: Tensor) -> Tensor:
    """|ifft2(real + i imaginary)|, (…, H, W); in an export, as matrix products."""
    with torch.autocast(real.device.type, enabled=False):
        if not torch.onnx.is_in_onnx_export():
            return torch.fft.ifft2(torch.complex(real, imaginary)).abs()
        size = real.shape[-2] * real.shape[-1]
        return magnitude(*_products(real, imaginary, inverse=True)) / size


def magnitude(real: Tensor, imaginary: Tensor) -> Tensor:
    """sqrt(real² + imaginary²), with gradient 0 where both are."""
    if torch.onnx.is_in_onnx_export():
        return (real.square() + imaginary.square()).sqrt()
    return torch.complex(real, imaginary).abs()


def _products(real: Tensor, imaginary: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """The transform of (…, H, W), or H · W times its inverse."""
    (cos_y, sin_y), (cos_x, sin_x) = (_turns(n, real, inverse) for n in real.shape[-2:])
    real, imaginary = cos_y @ real - sin_y @ imaginary, cos_y @ imaginary + sin_y @ real
    return real @ cos_x - imaginary @ sin_x, imaginary @ cos_x + real @ sin_x


def _turns(length: int, like: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the transform's matrix (length, length), which is symmetric."""
    index = torch.arange(length, device=like.device)
    angle = (index[:, None] * index % length).to(like.dtype) * (2 * math.pi / length)
    return angle.cos(), angle.sin() if inverse else -angle.sin()


def frequencies(length: int, like: Tensor) -> Tensor:
    """(length,) in cycles per pixel, -0.5 to 0.5, in the order of the transform."""
    index = torch.arange(length, device=like.device)
    return (index - length * (2 * index >= length)) / length


def low_pass(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Real part of the inverse transform of rows · columns · transform(x).

    Args:
        x: (B, C, H, W).
        rows, columns: (H,) and (W,), factors of the frequencies in the order of the transform.

    Returns:
        (B, C, H, W) in at least float32.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = precise(x)
        (down_re, down_im), (along_re, along_im) = _circulant(rows, x), _circulant(columns, x)
        return down_re @ x @ along_re.T - down_im @ x @ along_im.T


def split_bands(x: Tensor, masks: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Bands that add up to `x`, high frequencies first, what the last mask keeps at the end.

    Args:
        x: (B, C, H, W).
        masks: (rows, columns) of `low_pass`, wide ones first.
    """
    rest, bands = precise(x), []
    for rows, columns in masks:
        low = low_pass(x, rows, columns)
        bands.append(rest - low)
        rest = low
    return [*bands, rest]


def _circulant(mask: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix (n, n) that scales the frequencies of a vector by `mask`: real and imaginary part."""
    length = mask.shape[0]
    index = torch.arange(length, device=like.device)
    turn = (torch.outer(index, index) % length).to(like.dtype) * (2 * math.pi / length)
    mask = mask.to(like.dtype) / length
    shift = (index[:, None] - index) % length
    return (turn.cos() @ mask)[shift], (turn.sin() @ mask)[shift]
