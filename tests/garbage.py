"""Garbage collection that passes over what was imported: its objects are many, and they stay."""

from __future__ import annotations

import atexit
import gc


def freeze() -> None:
    """All there is now is looked through no more, until the interpreter ends and tidies up."""
    gc.freeze()
    atexit.register(gc.unfreeze)
