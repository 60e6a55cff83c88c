"""What a file leaves out means what it means in its own repository.

Reads the signatures (not the code) of the authors' registered components, where a copy of a
repository is at hand, and holds ours against them.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detrkit.config.families import ASSUMPTIONS
from detrkit.registry import MODULES
from tests.config.authors import authors_files

#: By repository: the folder of its code, beside `configs`, and its sign in `families`.
CODE = {"D-FINE": "src", "DEIM": "engine", "DEIMv2": "engine", "RT-DETRv2": "src"}
SIGNS = {"RT-DETRv2": ("RTDETR",), "DEIMv2": ("DEIMTransformer",)}

FOLDERS = {file.repository: file.folder.parent for file in authors_files()}

#: Ours differ on purpose.
MEANT = {
    # None chooses by `name`: L, X and H are RT-DETRv2's, the others D-FINE's and DEIM's
    ("HGNetv2", "freeze_at"),
    ("HGNetv2", "freeze_norm"),
    ("HGNetv2", "pretrained"),
    # theirs cannot be used: no box format, no ViT, no layers of it
    ("ConvertBoxes", "fmt"),
    ("ConvertBoxes", "normalize"),
    ("DINOv3STAs", "name"),
    ("DINOv3STAs", "interaction_indexes"),
}

pytestmark = pytest.mark.skipif(not FOLDERS, reason="DETRKIT_AUTHORS_CONFIGS is not set")


def signatures(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Registered components and those of their defaults that are plain values."""
    for file in sorted(folder.rglob("*.py")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(module):
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                continue
            if not any("register" in ast.unparse(mark) for mark in node.decorator_list):
                continue
            function: Any = node
            if isinstance(node, ast.ClassDef):
                own = [m for m in node.body if getattr(m, "name", "") == "__init__"]
                function = own[0] if own else None
            if function is not None:
                yield node.name, dict(defaults(function.args))


def defaults(arguments: ast.arguments) -> Iterator[tuple[str, Any]]:
    named = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    for argument, default in zip(named, arguments.defaults, strict=True):
        try:
            yield argument.arg, plain(ast.literal_eval(default))
        except ValueError:
            continue


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def assumed(repository: str, component: str) -> dict[str, Any]:
    signs = SIGNS.get(repository, ())
    return {
        a.argument: a.value for a in ASSUMPTIONS if a.sign in signs and a.component == component
    }


@pytest.mark.parametrize("repository", sorted(FOLDERS))
def test_defaults(repository: str) -> None:
    checked, wrong = 0, []
    for name, theirs in signatures(FOLDERS[repository] / CODE[repository]):
        if name not in MODULES:
            continue
        ours = {key: plain(p.default) for key, p in MODULES.get(name).parameters.items()}
        ours |= assumed(repository, name)
        for key, value in theirs.items():
            if (name, key) in MEANT:
                continue
            checked += 1
            if key not in ours:
                wrong.append(f"{name}.{key}: not known")
            elif ours[key] != value:
                wrong.append(f"{name}.{key}: {ours[key]!r}, theirs {value!r}")
    assert checked > 50
    assert wrong == []
