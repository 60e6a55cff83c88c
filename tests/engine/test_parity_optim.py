"""Groups, schedule, averaging and switches of all four repositories equal the authors'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.config.authors import authors_files
from tests.conftest import REPOSITORY, reference_folder
from tests.reference.optim import results

STORED = sorted((reference_folder() / "parity" / "optim").glob("*.json"))
SKIPPED = {"config", "repo"}

#: Of each kind of model and schedule one that builds fast; the others are slow tests.
QUICK = {
    "dfine__dfine_hgnetv2_n_coco",
    "rtdetrv2__rtdetrv2_r18vd_120e_coco",
    "rtdetrv2__rtdetrv2_hgnetv2_l_6x_coco",
    "deim__deim_hgnetv2_s_coco",
    "deim__deim_r18vd_120e_coco",
    "deim__deim_hgnetv2_x_obj2coco_24e",
    "deimv2__deimv2_hgnetv2_atto_coco",
    "deimv2__deimv2_dinov3_s_coco",
}

#: The copies of the authors' `configs` folders, by the names of the stored files.
REPOSITORIES = {"RT-DETR/rtdetrv2_pytorch": "RT-DETRv2"}
FOLDERS = {file.repository: file.folder for file in authors_files()}


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


def differences(file: Path, config: Path) -> list[str]:
    stored, got = wanted(file), results(config)
    for side in (stored, got):  # written out in our files: the constructor's default
        side["collate"].setdefault("ema_restart_decay", 0.9999)
    return [key for key in stored if not close(got[key], stored[key])]


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(f, id=f.stem, marks=[] if f.stem in QUICK else [pytest.mark.slow])
        for f in STORED
    ],
)
def test_our_files(file: Path) -> None:
    assert differences(file, REPOSITORY / json.loads(file.read_text())["config"]) == []


@pytest.mark.slow
@pytest.mark.parametrize("file", STORED, ids=lambda file: file.stem)
def test_the_authors_files(file: Path) -> None:
    source = json.loads(file.read_text())
    folder = FOLDERS.get(REPOSITORIES.get(source["repo"], source["repo"]))
    if folder is None:
        pytest.skip(f"DETRKIT_AUTHORS_CONFIGS names no copy of {source['repo']}")
    assert differences(file, folder / source["config"].removeprefix("configs/")) == []
