"""A small registry of its own, so that no test touches the real one, and a file writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detrkit.config import Config, load_config
from detrkit.registry import Registry

Write = Callable[..., Path]
Load = Callable[..., Config]


class Part:
    """Keeps what it was built with."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None


def make_registry() -> Registry:
    """Backbone, Neck (shares num_classes), Net (injects both), Sgd, Loader, Dataset, Resize."""
    registry = Registry()

    @registry.register()
    class Backbone(Part):
        def __init__(
            self,
            depth: int = 18,
            name: str = "r",
            sizes: list[int] | None = None,
            rate: float = 0.1,
        ) -> None:
            super().__init__(depth=depth, name=name, sizes=sizes, rate=rate)

    @registry.register(share=("num_classes", "eval_spatial_size"))
    class Neck(Part):
        def __init__(
            self,
            hidden_dim: int = 64,
            num_classes: int = 80,
            eval_spatial_size: tuple[int, int] | None = None,
        ) -> None:
            super().__init__(
                hidden_dim=hidden_dim, num_classes=num_classes, eval_spatial_size=eval_spatial_size
            )

    @registry.register(inject=("backbone", "neck"))
    class Net(Part):
        def __init__(self, backbone: Any, neck: Any = None) -> None:
            super().__init__(backbone=backbone, neck=neck)

    @registry.register()
    class Sgd(Part):
        def __init__(self, params: Any, lr: float, momentum: float = 0.9) -> None:
            super().__init__(params=params, lr=lr, momentum=momentum)

    @registry.register()
    class Adam(Part):
        def __init__(
            self, params: Any, lr: float, betas: tuple[float, float] = (0.9, 0.99)
        ) -> None:
            super().__init__(params=params, lr=lr, betas=betas)

    @registry.register(inject=("dataset", "collate_fn"))
    class Loader(Part):
        def __init__(self, dataset: Any, collate_fn: Any = None, batch_size: int = 1) -> None:
            super().__init__(dataset=dataset, collate_fn=collate_fn, batch_size=batch_size)

    @registry.register()
    class Dataset(Part):
        def __init__(self, folder: str, transforms: Any = None) -> None:
            super().__init__(folder=folder, transforms=transforms)

    @registry.register()
    class Collate(Part):
        def __init__(self, base_size: Any = 640) -> None:
            super().__init__(base_size=base_size)

    @registry.register()
    class Resize(Part):
        def __init__(self, size: list[int]) -> None:
            super().__init__(size=size)

    @registry.register()
    def Picky(side: int) -> Part:
        if side % 2:
            raise ValueError(f"side must be even, got {side}")
        return Part(side=side)

    return registry


@pytest.fixture
def registry() -> Registry:
    return make_registry()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("a.yml", text)` -> its path."""

    def writer(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return writer


@pytest.fixture
def load(write: Write, registry: Registry) -> Load:
    """`load(text, **arguments)` loads a file of that text with the small registry."""

    def loader(text: str | bytes, **arguments: Any) -> Config:
        return load_config(write("main.yml", text), registry=registry, **arguments)

    return loader
