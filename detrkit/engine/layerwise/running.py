"""Tells a listener which layer of a model runs, and sums what belongs to layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

N = TypeVar("N", int, float)


class Listener:
    """Is told when layers begin and end. Names are those of `named_modules`: "" is the model."""

    def enter(self, name: str, module: nn.Module) -> None:
        """Before `forward` of a layer."""

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        """After it."""


@contextmanager
def listening(model: nn.Module, *listeners: Listener) -> Iterator[None]:
    """Hooks on every layer while the block runs.

    A layer that is there under several names goes by its first; lists never run themselves.

    Args:
        model: unchanged afterwards.
        listeners: told in this order.
    """
    handles = []
    for name, module in model.named_modules():
        for listener in listeners:
            handles.append(
                module.register_forward_pre_hook(
                    lambda module, _, name=name, to=listener: to.enter(name, module)
                )
            )
            handles.append(
                module.register_forward_hook(
                    lambda module, _, output, name=name, to=listener: to.leave(name, module, output)
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Calls(Listener):
    """Which layers ran, how often, in which order.

    Attributes:
        count: calls by name.
        first: number of a layer's first call, by name.
        running: the layers that run now, outermost first.
    """

    def __init__(self) -> None:
        self.count: dict[str, int] = {}
        self.first: dict[str, int] = {}
        self.running: list[str] = []

    def enter(self, name: str, module: nn.Module) -> None:
        self.first.setdefault(name, len(self.first))
        self.count[name] = self.count.get(name, 0) + 1
        self.running.append(name)

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        self.running.pop()


def above(name: str) -> list[str]:
    """A layer and those above it by name, outermost first: `a.b` -> ``, `a`, `a.b`."""
    parts = name.split(".") if name else []
    return [".".join(parts[:i]) for i in range(len(parts) + 1)]


def totals(own: Mapping[str, N]) -> dict[str, N]:
    """What layers have in themselves and below by name; without those that have nothing.

    Args:
        own: what each has of its own, by name.
    """
    found: dict[str, N] = {}
    for name, value in own.items():
        for each in above(name):
            found[each] = found[each] + value if each in found else value
    return found
