"""Builds the models of `parity/keys/*.json` from our configurations: `build(name)`.

Weights are random, state-dict names are the authors', and eval and train forwards are theirs.
"""

from __future__ import annotations

from torch import nn

from detrkit.config import build as build_from
from detrkit.config import load_config
from detrkit.config.catalogue import root

#: Ends of the names of RT-DETRv2's configurations by the names in the reference numbers.
_RTDETRV2 = {
    "r18": "r18vd_120e", "r18_dsp": "r18vd_dsp_3x", "r18_sp1": "r18vd_sp1_120e",
    "r18_sp2": "r18vd_sp2_120e", "r18_sp3": "r18vd_sp3_120e", "r34": "r34vd_120e",
    "r34_dsp": "r34vd_dsp_1x", "r50": "r50vd_6x", "r50_dsp": "r50vd_dsp_1x",
    "r50_m": "r50vd_m_7x", "r50_m_dsp": "r50vd_m_dsp_3x", "r101": "r101vd_6x",
    "hgnetv2_l": "hgnetv2_l_6x", "hgnetv2_x": "hgnetv2_x_6x", "hgnetv2_h": "hgnetv2_h_6x",
}  # fmt: skip
_DEIM_RTDETRV2 = {
    "r18": "r18vd_120e", "r34": "r34vd_120e", "r50": "r50vd_60e", "r50_m": "r50vd_m_60e",
    "r101": "r101vd_60e",
}  # fmt: skip
_DEIMV2 = (
    *(f"hgnetv2_{size}" for size in ("atto", "femto", "pico", "n", "s", "m", "l", "x")),
    *(f"dinov3_{size}" for size in ("s", "m", "l", "x")),
)

#: Name in the reference numbers -> our configuration, below `configs/`.
CONFIGS: dict[str, str] = {
    **{f"dfine_{size}": f"dfine/dfine_hgnetv2_{size}_coco" for size in "nsmlx"},
    **{f"deim_dfine_{size}": f"deim_dfine/deim_hgnetv2_{size}_coco" for size in "nsmlx"},
    **{f"rtdetrv2_{size}": f"rtdetrv2/rtdetrv2_{end}_coco" for size, end in _RTDETRV2.items()},
    **{
        f"deim_rtdetrv2_{size}": f"deim_rtdetrv2/deim_{end}_coco"
        for size, end in _DEIM_RTDETRV2.items()
    },
    **{f"deimv2_{size}": f"deimv2/deimv2_{size}_coco" for size in _DEIMV2},
}


def build(name: str) -> nn.Module:
    """The model called `name` in the reference numbers, 80 classes.

    Raises:
        KeyError: unknown name; lists the known ones.
    """
    if name not in CONFIGS:
        raise KeyError(f"unknown model {name!r}; known: {', '.join(sorted(CONFIGS))}")
    return build_from(load_config(root() / f"{CONFIGS[name]}.yml"), "model")
