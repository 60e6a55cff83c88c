"""Step 4, check: run settings against their types, components against their constructors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit.errors import Problem
from detrkit.registry import MODULES, Registry

if TYPE_CHECKING:
    from detrkit.config.config import Config


def check(cfg: Config, *, registry: Registry = MODULES) -> list[Problem]:
    """Every problem of a merged configuration."""
    return []
