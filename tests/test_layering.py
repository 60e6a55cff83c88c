"""Imports point downwards only: cli, engine, analysis, the parts, the ground."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "detrkit"

#: A package may import from strictly lower layers and from itself.
LAYERS = {
    "errors": 0,
    "lazy": 0,
    "files": 1,
    "json_output": 2,
    "phases": 1,
    "words": 0,
    "registry": 1,
    "ops": 1,
    "structures": 2,
    "layers": 2,
    "modules": 3,
    "config": 3,
    "data": 3,
    "models": 4,
    "losses": 3,
    "metrics": 4,
    "report": 3,
    "drawing": 4,
    "convert": 4,
    "analysis": 5,
    "distillation": 5,
    "eval_report": 5,
    "export": 5,
    "engine": 6,
    "serving": 7,
    "explain": 7,
    "api": 7,
    "cli": 8,
}

#: `Detections.draw` and `ClassMap` live below drawing; the method imports it when called. So does
#: the package `export`, which has the name of a function of the API.
ALLOWED = {("structures", "drawing"), ("export", "api")}


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> list[tuple[str, int]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("detrkit."):
            found.append((node.module or "", node.lineno))
        elif isinstance(node, ast.Import):
            found += [(a.name, node.lineno) for a in node.names if a.name.startswith("detrkit.")]
    return found


@pytest.mark.parametrize("part", sorted(LAYERS))
def test_imports_point_downwards(part: str) -> None:
    files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else []
    files += sorted((PACKAGE / part).rglob("*.py"))
    assert files, f"no such part: {part}"
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} imports {module}"
        for path in files
        for module, line in imports(path)
        if part_of(module) != part
        and (part, part_of(module)) not in ALLOWED
        and LAYERS[part_of(module)] >= LAYERS[part]
    ]
    assert not wrong, "\n".join(wrong)


def test_every_part_has_a_layer() -> None:
    parts = {p.stem if p.suffix == ".py" else p.name for p in PACKAGE.iterdir()}
    parts -= {"__init__", "__main__", "__pycache__", "py.typed", "_configs"}
    assert parts <= set(LAYERS), parts - set(LAYERS)
