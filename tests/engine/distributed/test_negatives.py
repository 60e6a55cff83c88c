"""Negatives in several processes: shared like all images; one process counts false detections."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from detrkit.engine import training
from detrkit.engine.derive import TrainFlags, load_with_flags
from tests.conftest import REPOSITORY
from tests.engine.distributed.processes import in_processes
from tests.engine.tiny_data import write_coco, write_config


def train(place: Path) -> int:
    """Trains; how many lines of the log have false detections."""
    flags = TrainFlags(
        data=str(place / "data"),
        negatives=str(place / "negatives"),
        eval_negatives=str(place / "negatives"),
        batch=4,
        epochs=2,
        device="cpu",
    )
    update = ["DFINETransformer.random_negatives=4", "oa_threshold=0.001", "oa_tolerance=1.0"]
    result = training.train(
        load_with_flags(place / "tiny.yml", flags, update=update), output=place / "run"
    )
    rows = [json.loads(line) for line in (result.directory / "log.jsonl").read_text().splitlines()]
    return sum("val/oa_fppi" in row for row in rows)


def test_two_processes(tmp_path: Path) -> None:
    write_coco(tmp_path / "data", train=4, val=2)
    write_config(tmp_path, REPOSITORY)
    (tmp_path / "negatives").mkdir()
    for number in range(8):  # whole batches without a box
        pixels = np.full((40, 60, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "negatives" / f"{number}.png")
    assert in_processes(2, train, tmp_path) == [2, 2]
    assert (tmp_path / "run" / "best_oa.pth").is_file()
    assert not (tmp_path / "run" / "oa_candidates").exists()
