"""False detections of a detector whose answers are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from detrkit.data.negatives import open_negatives
from detrkit.engine.over_activation import find_false_detections
from detrkit.errors import DataError
from tests.engine.bright import CLASSES, bright_runtime, picture


def folder(tmp_path: Path) -> Path:
    """Two dark pictures, one that the detector falls for, and a broken one."""
    picture(box=(0, 0, 0, 0)).save(tmp_path / "a.png")
    picture().save(tmp_path / "b.png")
    picture(box=(0, 0, 0, 0)).save(tmp_path / "c.png")
    whole = tmp_path / "d.png"
    picture().save(whole)
    whole.write_bytes(whole.read_bytes()[:-40])  # the header is there
    return tmp_path


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_scores_of_all_that_can_be_read(tmp_path: Path, ahead: bool, batch: int) -> None:
    index = open_negatives(folder(tmp_path), CLASSES)
    steps: list[tuple[int, int]] = []
    found = find_false_detections(
        bright_runtime(), index, batch=batch, ahead=ahead, progress=lambda *step: steps.append(step)
    )
    assert found is not None
    assert [Path(p).name for p in found.paths] == ["a.png", "b.png", "c.png"]
    assert [Path(p).name for p in found.broken] == ["d.png"]
    assert len(steps) == -(-4 // batch)
    numbers = found.at(0.5)
    assert (numbers.images, numbers.fppi) == (3, pytest.approx(1 / 3))
    assert numbers.max_score == pytest.approx(0.9526, abs=1e-4)  # sigmoid(3)


def test_it_can_be_stopped(tmp_path: Path) -> None:
    index = open_negatives(folder(tmp_path), CLASSES)
    asked = iter([False, True])
    assert find_false_detections(bright_runtime(), index, batch=1, stop=lambda: next(asked)) is None


def test_nothing_to_read(tmp_path: Path) -> None:
    index = open_negatives(folder(tmp_path), CLASSES)
    for file in tmp_path.iterdir():
        file.unlink()
    found = find_false_detections(bright_runtime(), index)
    assert found is not None
    with pytest.raises(DataError, match="none of the 4 images without targets can be read"):
        found.at(0.5)
