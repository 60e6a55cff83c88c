"""Graphs and files for other runtimes.

The package has the name of the function that the API offers: `detrkit.export(...)` is it, also
after something imported a module of the package, which then is what `detrkit.export` means.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """Calls `detrkit.api.export`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from detrkit.api import export

        return export(*args, **options)


sys.modules[__name__].__class__ = _CallablePackage
