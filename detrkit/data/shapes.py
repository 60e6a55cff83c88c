"""Placeholder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def is_shapes(path: str | Path) -> bool:
    return False


def open_shapes(spec: str, only: str | None = None, class_map: Any = None) -> dict[str, Any]:
    raise NotImplementedError
