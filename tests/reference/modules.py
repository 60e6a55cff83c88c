"""Our modules for the reference cases: `build`, `run` and `fill`.

`case` is a `Case` of `modules/reference.py`. Each family keeps its table of adapters in
`module_adapters/`, which say how the arguments and inputs of the reference are called here.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from torch import Tensor, nn

from tests.reference import module_adapters
from tests.reference.module_adapters.adapter import Adapter


@cache
def adapters() -> dict[str, Adapter]:
    """By the name of the module in the cases.

    Raises:
        AssertionError: two families adapt the same module.
    """
    found: dict[str, Adapter] = {}
    for info in pkgutil.iter_modules(module_adapters.__path__):
        table = getattr(
            importlib.import_module(f"{module_adapters.__name__}.{info.name}"), "ADAPTERS", {}
        )
        assert not found.keys() & table.keys(), found.keys() & table.keys()
        found |= table
    return found


def build(case: Any) -> nn.Module:
    """Our module for a case.

    Raises:
        KeyError: there is none.
    """
    if case.module not in adapters():
        raise KeyError(f"no module for {case.module!r}; known: {', '.join(sorted(adapters()))}")
    return adapters()[case.module].build(case)


def run(module: nn.Module, case: Any, tensors: list[Tensor]) -> list[Tensor]:
    """Calls it with the inputs of a case; outputs in the order and layout of the reference."""
    return adapters()[case.module].run(module, case, tensors)


def fill(module: nn.Module, case: Any) -> None:
    """Fills it with the weights of the reference."""
    adapters()[case.module].fill(module, case)
