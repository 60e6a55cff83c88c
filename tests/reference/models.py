"""Builds the models of `parity/keys/*.json`: `build(name)`.

Weights are random, state-dict names are the authors', and eval and train forwards are theirs.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from detrkit.models.backbones.hgnetv2 import HGNetv2
from detrkit.models.decoders.dfine import DFINETransformer
from detrkit.models.detector import Detector
from detrkit.models.encoders.hybrid_encoder import HybridEncoder

#: Constructor arguments of the D-FINE family: backbone, encoder, decoder.
_DFINE: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "dfine_n": (
        {
            "name": "B0",
            "use_lab": True,
            "return_idx": [2, 3],
            "freeze_at": -1,
            "freeze_norm": False,
        },
        {
            "in_channels": [512, 1024],
            "feat_strides": [16, 32],
            "hidden_dim": 128,
            "use_encoder_idx": [1],
            "dim_feedforward": 512,
            "expansion": 0.34,
            "depth_mult": 0.5,
        },
        {
            "feat_channels": [128, 128],
            "feat_strides": [16, 32],
            "hidden_dim": 128,
            "dim_feedforward": 512,
            "num_levels": 2,
            "num_layers": 3,
            "num_points": [6, 6],
            "reg_scale": 4,
        },
    ),
    "dfine_s": (
        {"name": "B0", "use_lab": True, "freeze_at": -1, "freeze_norm": False},
        {"in_channels": [256, 512, 1024], "depth_mult": 0.34, "expansion": 0.5},
        {"num_layers": 3, "num_points": [3, 6, 3], "reg_scale": 4},
    ),
    "dfine_m": (
        {"name": "B2", "use_lab": True, "freeze_at": -1, "freeze_norm": False},
        {"in_channels": [384, 768, 1536], "depth_mult": 0.67},
        {"num_layers": 4, "num_points": [3, 6, 3], "reg_scale": 4},
    ),
    "dfine_l": ({"name": "B4"}, {}, {"num_layers": 6, "num_points": [3, 6, 3], "reg_scale": 4}),
    "dfine_x": (
        {"name": "B5"},
        {"hidden_dim": 384, "dim_feedforward": 2048},
        {
            "feat_channels": [384] * 3,
            "num_layers": 6,
            "num_points": [3, 6, 3],
            "reg_scale": 8,
        },
    ),
}


def build(name: str) -> nn.Module:
    """The model called `name` in the reference numbers, 80 classes.

    Raises:
        KeyError: unknown name; lists the known ones.
    """
    if name not in _DFINE:
        raise KeyError(f"unknown model {name!r}; known: {', '.join(sorted(_DFINE))}")
    backbone, encoder, decoder = _DFINE[name]
    size = [640, 640]
    return Detector(
        HGNetv2(**backbone),
        HybridEncoder(**encoder, eval_spatial_size=size),
        DFINETransformer(**{"feat_channels": [256] * 3, **decoder}, eval_spatial_size=size),
    )
