"""Real data sets through the command line: source and result read alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.convert.compare import assert_same_splits

SETS = ["bccd", "cards_yolo", "ships_yolo_messy", "aerial_cars", "aerial_trees", "coco_cc"]


@pytest.mark.parametrize("form", ["to-coco", "to-yolo", "to-voc"])
@pytest.mark.parametrize("name", SETS)
def test_the_result_reads_like_the_source(
    shared_data: Callable[[str], Path],
    tmp_path: Path,
    run: Run,
    name: str,
    form: str,
) -> None:
    source = shared_data(name)
    coco = form == "to-coco"
    crowds = [] if coco else ["--keep-crowds"]
    result = run("convert", form, source, "-o", tmp_path / "out", *crowds, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["kind"] == "convert"
    assert_same_splits(source, tmp_path / "out", within=0.01, flags=coco)
