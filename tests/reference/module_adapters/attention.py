"""Adapters of the family `attention`."""

from __future__ import annotations

from tests.reference.module_adapters.adapter import Adapter, named

ADAPTERS = {
    "SimAM": Adapter(named("SimAM", drop=("channels",), in_channels=64)),
}
