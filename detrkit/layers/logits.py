"""Between probabilities and logits."""

from __future__ import annotations

import math

from torch import Tensor


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logits of probabilities; `x` and 1 - `x` are kept above `eps`, so the result is finite."""
    x = x.clamp(0, 1)
    return (x.clamp(min=eps) / (1 - x).clamp(min=eps)).log()


def bias_for_probability(probability: float) -> float:
    """The logit of `probability`, 0–1: Focal Loss's prior, arXiv:1708.02002, section 4.1."""
    return -math.log((1 - probability) / probability)
