"""A D-FINE small enough for quick tests, and batches for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from detrkit.models.backbones.hgnetv2 import HGNetv2
from detrkit.models.decoders.dfine import DFINETransformer
from detrkit.models.detector import Detector
from detrkit.models.encoders.hybrid_encoder import HybridEncoder
from detrkit.structures import Target


@pytest.fixture
def tiny() -> Callable[..., Detector]:
    """`tiny(**decoder_arguments)`: B0, 32 channels, two levels, three layers, five classes."""

    def make(**decoder: Any) -> Detector:
        torch.manual_seed(0)
        settings: dict[str, Any] = {
            "num_classes": 5, "hidden_dim": 32, "num_queries": 10, "feat_channels": [32, 32],
            "feat_strides": [16, 32], "num_levels": 2, "num_points": [3, 2], "nhead": 4,
            "num_layers": 3, "dim_feedforward": 64, "num_denoising": 8,
            "eval_spatial_size": [64, 96], **decoder,
        }  # fmt: skip
        return Detector(
            HGNetv2("B0", use_lab=True, return_idx=[2, 3], freeze_at=-1, freeze_norm=False),
            HybridEncoder(
                [512, 1024], [16, 32], hidden_dim=32, nhead=4, dim_feedforward=64,
                use_encoder_idx=[1], expansion=0.5, depth_mult=0.34,
            ),
            DFINETransformer(**settings),
        )  # fmt: skip

    return make


@pytest.fixture
def targets() -> Callable[[list[int]], list[Target]]:
    """`targets([3, 0])`: targets with so many boxes."""

    def make(counts: list[int]) -> list[Target]:
        torch.manual_seed(1)
        return [
            Target(torch.rand(n, 4) * 0.4 + 0.3, torch.randint(5, (n,)), image_id=i)
            for i, n in enumerate(counts)
        ]

    return make
