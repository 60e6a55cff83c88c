"""Builds the models of `parity/keys/*.json` from our configurations: `build(name)`.

Weights are random, state-dict names are the authors', and eval and train forwards are theirs.
"""

from __future__ import annotations

from torch import nn

from detrkit.config import build as build_from
from detrkit.config import load_config

#: Name in the reference numbers -> our configuration.
CONFIGS: dict[str, str] = {
    f"dfine_{size}": f"dfine_hgnetv2_{size}_coco" for size in ("n", "s", "m", "l", "x")
}


def build(name: str) -> nn.Module:
    """The model called `name` in the reference numbers, 80 classes.

    Raises:
        KeyError: unknown name; lists the known ones.
    """
    if name not in CONFIGS:
        raise KeyError(f"unknown model {name!r}; known: {', '.join(sorted(CONFIGS))}")
    return build_from(load_config(CONFIGS[name]), "model")
