"""Reverse Convolution and Its Applications to Image Restoration. Huang et al., ICCV 2025,
arXiv:2508.09824.

y = argmin_X |Y - (K * X)↓s|² + λ |X - X_0|²,  X_0 = Y↑s nearest

    F_R = conj(F_K) F(Y zero-filled) + F(λ X_0)                         circular borders
    y   = F⁻¹((F_R - conj(F_K) · tile(mean(F_K F_R) / (mean(|F_K|²) + λ))) / λ)

mean is over the s × s spectra that become one when every s-th pixel is kept. λ = σ(b - 9) + eps.
Divided by λ, which starts at 1.3e-4, rounding grows: float32 is needed and gives 3e-6 of the
range.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.activations import get_activation
from detrkit.layers.windows import check_smallest
from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="conv",
    paper="arXiv:2508.09824",
    venue="ICCV 2025",
    example={"in_channels": 8},
    traits=Traits(
        smallest=3, onnx="ONNX has no complex numbers", float32="division by λ, about 1e-4"
    ),
)
class Converse2D(nn.Module):
    """What a depthwise convolution was made of, in closed form. (B, C, H, W) -> (B, C, sH, sW).

    Args:
        in_channels: C.
        kernel_size: k of the convolution that is undone.
        scale: s, its stride.
        padding: pixels around the map, for whose sake borders need not be circular; None: k - 1.
            Sides must be larger.
        padding_mode: "circular", "reflect", "replicate" or "constant".
        eps: least λ.
        act: activation of the result.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 3,
        scale: int = 1,
        *,
        padding: int | None = None,
        padding_mode: str = "circular",
        eps: float = 1e-5,
        act: str | nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.scale, self.eps = scale, eps
        self.padding = kernel_size - 1 if padding is None else padding
        self.padding_mode = padding_mode
        kernel = torch.randn(1, in_channels, kernel_size**2).softmax(-1)
        self.weight = nn.Parameter(kernel.unflatten(2, (kernel_size, kernel_size)))
        self.bias = nn.Parameter(torch.zeros(1, in_channels, 1, 1))
        self.act = get_activation(act)

    def forward(self, x: Tensor) -> Tensor:
        pad = self.padding
        check_smallest(x, pad + 1)
        with torch.autocast(x.device.type, enabled=False):
            y = F.pad(precise(x), [pad] * 4, mode=self.padding_mode)
            lam = (self.bias - 9).sigmoid() + self.eps
            out = converse(y, self.weight, lam, self.scale)
        height, width = out.shape[-2:]
        cut = pad * self.scale
        return self.act(out[..., cut : height - cut, cut : width - cut].to(x.dtype))


def converse(y: Tensor, kernel: Tensor, lam: Tensor, scale: int = 1) -> Tensor:
    """Closed-form inverse of a depthwise, circular convolution with a stride.

    Args:
        y: (B, C, H, W) float.
        kernel: (1, C, k, k), at most as large as the result.
        lam: (1, C, 1, 1), positive.
        scale: the stride.

    Returns:
        (B, C, scale·H, scale·W).
    """
    height, width = (scale * side for side in y.shape[-2:])
    start = F.interpolate(y, scale_factor=scale, mode="nearest") if scale > 1 else y
    spread = torch.zeros_like(start)
    spread[..., ::scale, ::scale] = y
    side = kernel.shape[-1]
    whole = F.pad(kernel, (0, width - side, 0, height - side))
    f_kernel = torch.fft.fft2(torch.roll(whole, (-(side // 2), -(side // 2)), dims=(-2, -1)))
    f_right = f_kernel.conj() * torch.fft.fft2(spread) + torch.fft.fft2(lam * start)

    def folded(spectrum: Tensor) -> Tensor:  # of the map that keeps every scale-th pixel
        return spectrum.unflatten(3, (scale, -1)).unflatten(2, (scale, -1)).mean((2, 4))

    seen = folded(f_kernel * f_right) / (folded((f_kernel.conj() * f_kernel).real) + lam)
    spectrum = (f_right - f_kernel.conj() * seen.tile(1, 1, scale, scale)) / lam
    return torch.fft.ifft2(spectrum).real
