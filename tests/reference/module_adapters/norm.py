"""Adapters of the family `norm`."""

from __future__ import annotations

from tests.reference.module_adapters.adapter import Adapter, by_variant, named, tokens_or_maps

ADAPTERS = {
    "RepBN": Adapter(
        by_variant(
            official=named("RepBN", channels="in_channels"),
            official_linearnorm=named("LinearNorm", drop=("norm1", "norm2"), dim="in_channels"),
        ),
        tokens_or_maps,
    ),
    "DynamicTanh": Adapter(
        named("DynamicTanh", drop=("channels_last",), normalized_shape="in_channels"),
        tokens_or_maps,
    ),
}
