"""calflops, layer by layer: what it counted for which function."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from detrkit.engine.layerwise.running import Listener, listening

log = logging.getLogger("detrkit.inspect")


@dataclass(frozen=True, slots=True)
class Calflops:
    """What calflops counts.

    Attributes:
        flops, macs: of the model, as papers print them; None when it failed.
        own: by layer and function, (FLOPs, multiply-adds) outside the layers below it.
        problem: why it failed.
    """

    flops: int | None = None
    macs: int | None = None
    own: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    problem: str = ""


def count(model: nn.Module, inputs: Sequence[Any]) -> Calflops:
    """Runs a model once with calflops' patches on torch.

    Args:
        model: in evaluation.
        inputs: its arguments.
    """
    # It prints, and importing it imports transformers, which warns about what is not installed.
    silence = (contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()))
    with warnings.catch_warnings(), silence[0], silence[1], _unpatched_after():
        warnings.simplefilter("ignore")
        try:
            from calflops import calculate_pipline as calflops

            functions = _Functions(calflops.module_flop_count, calflops.module_mac_count)
            pipeline = calflops.CalFlopsPipline(model, False, 2.0)
            with listening(model, functions), torch.no_grad():  # before its hooks forget
                pipeline.start_flops_calculate()
                try:
                    model(*inputs)
                    flops, macs = pipeline.get_total_flops(), pipeline.get_total_macs()
                finally:
                    pipeline.end_flops_calculate()
        except Exception as error:  # an operation it cannot count, at any depth of its patches
            log.debug("calflops failed", exc_info=True)
            return Calflops(problem=f"{type(error).__name__}: {error}")
    return Calflops(int(flops), int(macs), functions.own)


class _Functions(Listener):
    """Reads what calflops noted for a layer, before it adds that up.

    Args:
        flops, macs: its stacks; the last entry is that of the layer that runs: (function, number).
    """

    def __init__(
        self, flops: list[list[tuple[Any, int]]], macs: list[list[tuple[Any, int]]]
    ) -> None:
        self.own: dict[str, dict[str, tuple[int, int]]] = {}
        self._stacks = (flops, macs)

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        if not hasattr(module, "__pre_hook_handle__"):  # recurrent ones have a formula of their own
            return
        own = self.own.setdefault(name, {})
        for place, stack in enumerate(self._stacks):
            for label, number in stack[-1]:
                function = _name_of(label)
                pair = list(own.get(function, (0, 0)))
                pair[place] += int(number)
                own[function] = (pair[0], pair[1])


def _name_of(label: Any) -> str:
    """`conv2d`; calflops labels its numbers with the method `__str__` of a function."""
    return str(getattr(getattr(label, "__self__", label), "__name__", label))


@contextlib.contextmanager
def _unpatched_after() -> Iterator[None]:
    """Takes calflops' patches out of torch again, also when it fails in between."""
    before = [(owner, dict(vars(owner))) for owner in (F, torch, torch.Tensor)]
    try:
        yield
    finally:
        for owner, names in before:
            for name, value in names.items():
                if vars(owner).get(name) is not value:
                    setattr(owner, name, value)
