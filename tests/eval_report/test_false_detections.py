"""What is found where there is nothing, by a detector whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detrkit.data.negatives import open_negatives
from detrkit.engine.over_activation import measure_false_detections
from detrkit.eval_report.false_detections import false_detections
from detrkit.eval_report.remarks import on_negatives
from detrkit.metrics import Negatives
from detrkit.report import Page
from tests.engine.bright import CLASSES, bright_runtime, picture
from tests.report.browser import opened
from tests.report.parsing import check, check_accessible

#: sigmoid(3) and sigmoid(2): how sure it is of a cat and of a 猫.
CAT, OTHER = 0.9526, 0.8808


@pytest.fixture
def negatives(tmp_path: Path) -> Negatives:
    """Two dark pictures, one taken for a cat, two for a 猫, and a broken one."""
    folder = tmp_path / "empty"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        picture(box=(0, 0, 0, 0)).save(folder / name)
    picture(channel=1).save(folder / "b #1.png")
    picture(channel=1).save(folder / "d.png")
    picture(box=(48, 32, 120, 96)).save(folder / "e.png")
    (folder / "f.png").write_bytes((folder / "e.png").read_bytes()[:-40])
    index = open_negatives(folder, CLASSES)
    return Negatives(index, measure_false_detections(bright_runtime(), index, batch=2))


def test_numbers(negatives: Negatives) -> None:
    found = negatives.to_dict(0.9)
    assert found["images"] == 5
    assert [Path(path).name for path in found["broken"]] == ["f.png"]
    assert found["max_score"] == pytest.approx(CAT, abs=1e-4)
    levels = {level["threshold"]: level for level in found["levels"]}
    assert list(levels) == [0.1, 0.3, 0.5, 0.7, 0.9]  # its own is one of them
    assert levels[0.7]["detections"] == levels[0.7]["images_with_detections"] == 3
    assert (levels[0.9]["fppi"], levels[0.9]["clean_rate"]) == (0.2, 0.8)
    assert found["classes"] == [
        {"name": "猫", "detections": 2},
        {"name": "cat", "detections": 1},
    ]
    assert [Path(image["file"]).name for image in found["worst"]] == ["e.png", "b #1.png", "d.png"]
    worst = found["worst"][0]
    assert (worst["detected"], worst["detections"]) == ("cat", 1)
    assert worst["score"] == pytest.approx(CAT, abs=1e-4)
    assert worst["detected_box"] == pytest.approx([48, 32, 72, 64], abs=0.1)


def test_section(negatives: Negatives, tmp_path: Path) -> None:
    numbers = negatives.to_dict(0.5)
    page = Page("Evaluation", "")
    page.add("False detections", *false_detections(negatives, numbers, tmp_path))
    found = check(page.render(), links=True)
    check_accessible(found)
    assert found.tags.count("img") == 3
    assert f"cat {CAT:.2f}, in e.png" in [v for _, k, v in found.attributes if k == "alt"]
    assert "empty/b%20%231.png" in [v for t, k, v in found.attributes if (t, k) == ("a", "href")]
    assert "All 3 of them" in found.text
    (tmp_path / "report.html").write_bytes(page.encode())
    assert opened(tmp_path / "report.html")[1] == []


def test_remarks(negatives: Negatives) -> None:
    texts = {remark.code: remark.text for remark in on_negatives(negatives.to_dict(0.5))}
    assert "In 3 of 5 images without targets" in texts["over-activation"]
    assert "mostly `猫`, `cat`" in texts["over-activation"]
    assert "`f.png`" in texts["unreadable-negatives"]
    sure = {remark.code for remark in on_negatives(negatives.to_dict(0.96))}
    assert sure == {"unreadable-negatives"}


def test_nothing_is_found(tmp_path: Path) -> None:
    picture(box=(0, 0, 0, 0)).save(tmp_path / "a.png")
    index = open_negatives(tmp_path, CLASSES)
    empty = Negatives(index, measure_false_detections(bright_runtime(), index))
    numbers = empty.to_dict(None)
    assert numbers["worst"] == numbers["classes"] == []
    page = Page("Evaluation", "")
    page.add("False detections", *false_detections(empty, numbers, tmp_path))
    assert "img" not in check(page.render(), links=True).tags
    assert not list(on_negatives(numbers))


def test_scores_that_are_not_finite_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    picture().save(tmp_path / "a.png")
    index = open_negatives(tmp_path, CLASSES)
    runtime = bright_runtime()
    predict = runtime.predict

    def diverged(*args: object) -> object:
        answers = predict(*args)  # type: ignore[arg-type]
        for answer in answers:
            answer.scores = answer.scores.copy()
            answer.scores[:2] = np.nan, np.inf
        return answers

    monkeypatch.setattr(runtime, "predict", diverged)
    found = Negatives(index, measure_false_detections(runtime, index)).to_dict(0.5)
    assert "2 detections on negatives with NaN or infinite scores left out" in caplog.text
    assert found["max_score"] < 0.1
    assert found["worst"] == []
