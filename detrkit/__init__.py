"""detrkit: train, tune, evaluate and deploy real-time DETR detectors.

    import detrkit
    det = detrkit.load("best.pth")
    for found in det.predict("photo.jpg"):
        print(found.name, found.score, found.box_xyxy)

The names below are the stable Python API. They are imported on first use, so that
`import detrkit` stays light and leaves torch unimported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detrkit import explain
    from detrkit.api import (
        Detections,
        build_model,
        create,
        evaluate,
        export,
        load,
        load_config,
        train,
    )

__version__ = "0.1.0"

__all__ = [
    "Detections",
    "__version__",
    "build_model",
    "create",
    "evaluate",
    "explain",
    "export",
    "load",
    "load_config",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "explain":
        return importlib.import_module("detrkit.explain")
    if name in __all__:
        from detrkit import api

        return getattr(api, name)
    raise AttributeError(f"module `detrkit` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
