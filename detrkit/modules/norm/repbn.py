"""SLAB: Efficient Transformers with Simplified Linear Attention and Progressive Re-parameterized
Batch Normalization. Guo et al., ICML 2024, arXiv:2405.11582.

RepBN(x) = BN(x) + η x
LinearNorm(x) = λ LN(x) + (1 - λ) RepBN(x), λ falls linearly to 0
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.norm import LayerNorm2d
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="norm",
    paper="arXiv:2405.11582",
    venue="ICML 2024",
    example={"in_channels": 16},
    traits=Traits(),
)
class RepBN(nn.Module):
    """Batch norm with a learnt share of the identity. (B, C, H, W) -> (B, C, H, W).

    Deployed it is one scale and one shift per channel.

    Args:
        in_channels: C.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.alpha = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm2d(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        if "scale" in self._parameters:
            return x * self.scale[:, None, None] + self.shift[:, None, None]
        return self.norm(x) + self.alpha * x

    def convert_to_deploy(self) -> None:
        """Folds statistics and identity into a scale and a shift."""
        if "scale" in self._parameters:
            return
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        with torch.no_grad():
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            self.shift = nn.Parameter(norm.bias - norm.running_mean * scale)
            self.scale = nn.Parameter(scale + self.alpha)
        del self.norm, self.alpha


@MODULES.register(
    family="norm",
    paper="arXiv:2405.11582",
    venue="ICML 2024",
    example={"in_channels": 16, "r0": 0.5},
    traits=Traits(),
)
class LinearNorm(nn.Module):
    """Layer norm that becomes `RepBN` in the course of training. (B, C, H, W) -> (B, C, H, W).

    It counts its own calls in training: several a step (gradient accumulation, a norm used
    twice) shorten the course. In evaluation it is `RepBN` from the start. Unlike the published
    code, `RepBN` sees the maps of the warm-up too, so that its statistics are ready.

    Args:
        in_channels: C.
        warm: calls with layer norm alone.
        step: calls from there to `RepBN` alone.
        r0: λ behind the warm-up, 0–1.
    """

    calls: Tensor

    def __init__(
        self, in_channels: int, warm: int = 0, step: int = 10_000, r0: float = 1.0
    ) -> None:
        super().__init__()
        if step < 1 or warm < 0:
            raise ValueError(f"step must be positive and warm not negative, got {step} and {warm}")
        self.out_channels = in_channels
        self.warm, self.step, self.r0 = warm, step, r0
        self.layer_norm = LayerNorm2d(in_channels, eps=1e-5)
        self.rep_bn = RepBN(in_channels)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rep_bn(x)
        if not self.training:
            return out
        mixing = self.calls - self.warm
        share = self.r0 * (1 - mixing / self.step).clamp(min=0)
        share = torch.where(mixing < 0, 1.0, share).to(out.dtype)
        self.calls += 1
        return out + share * (self.layer_norm(x) - out)

    def convert_to_deploy(self) -> None:
        """Forgets the layer norm, which evaluation does not use."""
        if "layer_norm" in self._modules:
            del self.layer_norm
            self.rep_bn.convert_to_deploy()
