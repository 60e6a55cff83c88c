"""Every case of the reference numbers: parameters, shapes and outputs of the authors' code."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import reference_folder
from tests.reference import modules

FOLDER = reference_folder() / "modules"


def cases() -> list[Any]:
    if not (FOLDER / "reference.py").is_file():
        return []
    sys.path.insert(0, str(FOLDER))
    import reference  # type: ignore[import-not-found]

    return list(reference.cases())


CASES = cases()


def shapes(module: nn.Module) -> list[Counter[tuple[int, ...]]]:
    """Of all parameters, and of those that learn: some files list fixed filters, some do not."""
    every = list(module.parameters())
    return [
        Counter(tuple(p.shape) for p in chosen)
        for chosen in (every, [p for p in every if p.requires_grad])
    ]


def shape_of(entry: Any) -> tuple[int, ...]:
    """Of a parameter without effect: some files give its name before it."""
    return tuple(entry[1] if isinstance(entry[0], str) else entry)


@pytest.mark.skipif(not CASES, reason=f"no reference numbers at {FOLDER}; set DETRKIT_REFERENCE")
@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_case(case: Any) -> None:
    check_case(case)


def check_case(case: Any) -> None:
    """Parameters, shapes and, where they are published, outputs of one case."""
    module = modules.build(case)
    expected = Counter(case.param_shapes)
    unused = Counter(map(shape_of, case.unused_param_shapes))
    assert any(own in (expected, expected - unused) for own in shapes(module))
    modules.fill(module, case)
    module.eval()
    with torch.no_grad():
        case.check(modules.run(module, case, case.tensors()))


@pytest.mark.skipif(not CASES, reason=f"no reference numbers at {FOLDER}; set DETRKIT_REFERENCE")
def test_every_module_has_an_adapter() -> None:
    assert modules.adapters().keys() == {case.module for case in CASES}
