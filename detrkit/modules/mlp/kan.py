"""Kolmogorov-Arnold Transformer (GR-KAN). Yang and Wang, ICLR 2025, arXiv:2409.10594.

R(x) = (a0 + a1 x + … + a5 x⁵) / (1 + |b1 x + … + b4 x⁴|), per group of channels
y = W2 R2(W1 R1(x))

The released kernels divide by 1 + |b1| |x| + … + |b4| |x|⁴ instead: `denominator="kernel"`, for
their weights.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits

Denominator = Literal["paper", "kernel"]

#: Start values a0–a5 and b1–b4. "gelu" fits with the paper's denominator (0.003 on [-3, 3]).
_START = {
    "identity": ((0.0, 1.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)),
    "gelu": (
        (-0.00153969, 0.51692871, 0.44075827, 0.0972553, -0.00884418, -0.00378675),
        (-0.14171056, -0.06481231, -0.0444695, 0.01283776),
    ),
    "swish": (
        (3.05e-7, 0.5000008, 0.2499978, 0.0532663, 0.0058030, 0.00027520),
        (-4.1e-6, 0.1065290, -1.27e-6, 0.00055023),
    ),
}


@MODULES.register(
    family="mlp",
    paper="arXiv:2409.10594",
    venue="ICLR 2025",
    example={"in_channels": 16, "hidden_channels": 32},
    traits=Traits(float32="fifth powers"),
)
class KAN(nn.Module):
    """A feed-forward net with learnt rational activations. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        hidden_channels: None: C.
        out_channels: None: C.
        num_groups: of channels with one denominator; divides both widths.
        act: start of the second activation: "gelu", "swish" or "identity"; the first starts as
            the identity.
        denominator: "paper" or "kernel".
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | None = None,
        out_channels: int | None = None,
        num_groups: int = 8,
        act: str = "gelu",
        denominator: Denominator = "paper",
    ) -> None:
        super().__init__()
        self.out_channels = out_channels or in_channels
        hidden = hidden_channels or in_channels
        for channels in (in_channels, hidden):
            if channels % num_groups:
                raise ValueError(f"num_groups must divide {channels} channels, got {num_groups}")
        self.act1 = _Rational(num_groups, "identity", denominator)
        self.fc1 = nn.Conv2d(in_channels, hidden, 1)
        self.act2 = _Rational(num_groups, act, denominator)
        self.fc2 = nn.Conv2d(hidden, self.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act2(self.fc1(self.act1(x))))


class _Rational(nn.Module):
    """The activation R, in at least float32. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, num_groups: int, start: str, denominator: Denominator) -> None:
        super().__init__()
        if start not in _START:
            raise ValueError(f"act must be one of {', '.join(_START)}, got {start!r}")
        if denominator not in ("paper", "kernel"):
            raise ValueError(f"denominator must be paper or kernel, got {denominator!r}")
        self.denominator = denominator
        a, b = (torch.tensor(values) for values in _START[start])
        self.numerator_weights = nn.Parameter(a[None])  # (1, 6)
        self.denominator_weights = nn.Parameter(b.repeat(num_groups, 1))  # (groups, 4)

    def forward(self, x: Tensor) -> Tensor:
        a: Tensor = self.numerator_weights[0]
        b: Tensor = self.denominator_weights
        with torch.autocast(x.device.type, enabled=False):
            t = precise(x).unflatten(1, (b.shape[0], -1))  # (B, groups, c, H, W)
            top = a[5]
            for weight in a[:5].flip(0):
                top = top * t + weight
            if self.denominator == "kernel":
                t, b = t.abs(), _absolute(b)
            b = b[:, :, None, None, None]
            below = t * (b[:, 0] + t * (b[:, 1] + t * (b[:, 2] + t * b[:, 3])))
            return (top / (1 + _absolute(below))).flatten(1, 2).to(x.dtype)


def _absolute(x: Tensor) -> Tensor:
    """|x| whose slope at 0 is 1 and not 0, so that coefficients that start at zero learn."""
    return torch.where(x < 0, -x, x)
