"""Groups, schedule, averaging and switches of D-FINE's configurations equal the authors'."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY, reference_folder
from tests.reference.optim import results

STORED = sorted((reference_folder() / "parity" / "optim").glob("dfine__*.json"))
#: What our own files set differently: the class count of custom data, a value that no run reads.
SKIPPED = {"config", "repo"}


def close(a: Any, b: Any) -> bool:
    """Equal up to rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return bool(abs(a - b) <= 1e-12 * max(1, abs(b)))
    return bool(a == b)


def wanted(file: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(file.read_text())
    stored["schedule"].pop("meaning")
    stored["schedule"]["spread_between_groups"] = 0.0  # theirs: rounding
    return {k: v for k, v in stored.items() if k not in SKIPPED}


@pytest.mark.parametrize("size", ["n", "s", "m", "l", "x"])
def test_our_files(reference: Path, size: str) -> None:
    name = f"dfine_hgnetv2_{size}_coco"
    stored = wanted(reference / "parity" / "optim" / f"dfine__{name}.json")
    got = results(REPOSITORY / "configs" / "dfine" / f"{name}.yml")
    assert [key for key in stored if not close(got[key], stored[key])] == []


@pytest.mark.slow
@pytest.mark.parametrize("file", STORED, ids=lambda file: file.stem)
def test_the_authors_files(file: Path) -> None:
    folder = os.environ.get("DETRKIT_AUTHORS_CONFIGS")
    if not folder:
        pytest.skip("set DETRKIT_AUTHORS_CONFIGS to the authors' `configs` folder")
    stored = wanted(file)
    path = Path(folder) / json.loads(file.read_text())["config"].removeprefix("configs/")
    got = results(path)
    assert [key for key in stored if not close(got[key], stored[key])] == []
