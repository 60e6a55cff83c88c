"""`detrkit eval --negatives`: tables, JSON and report, and folders that are of no use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit.cli.app import main
from detrkit.metrics.schema import OverActivationJson
from tests.report.parsing import check, check_accessible


@pytest.fixture
def negatives(tmp_path: Path) -> Path:
    """Five pictures, at two depths, and one that ends too early."""
    folder = tmp_path / "empty <i>"
    (folder / "deeper").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "c.jpg", "deeper/d.png", "deeper/e.png"):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(folder / name)
    broken = folder / "z.png"
    broken.write_bytes((folder / "b.png").read_bytes()[:-3000])  # the header is there
    return folder


def run(weights: str, data: str, negatives: Path, *args: str) -> int:
    options = ["--data", data, "--negatives", str(negatives), "--device", "cpu", "--batch", "2"]
    return main(["eval", "-w", weights, *options, *args])


def test_table(weights: str, data: str, negatives: Path, capsys: Any) -> None:
    assert run(weights, data, negatives) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "False detections on 5 images without targets" in out
    assert "score from detections per image images with any clean images" in out
    assert "0.9 0 0.000 0 100.0 %" in out  # an untrained detector is sure of nothing
    assert "1 image could not be read" in out


def test_json_and_report(
    weights: str, data: str, negatives: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    assert run(weights, data, negatives, "--json", "-o", str(out)) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    found = answer["over_activation"]
    assert found.keys() == OverActivationJson.__annotations__.keys()
    assert found["source"] == str(negatives)
    assert found["images"] == 5
    assert [Path(path).name for path in found["broken"]] == ["z.png"]
    assert found["confidence"] == answer["yolo"]["confidence"]
    thresholds = [level["threshold"] for level in found["levels"]]
    assert thresholds == sorted({0.1, 0.3, 0.5, 0.7, 0.9, found["confidence"]})
    assert 0 < found["mean_max_score"] <= found["max_score"] < 1
    for level in found["levels"]:
        assert level["fppi"] == pytest.approx(level["detections"] / 5)
        assert level["clean_rate"] == pytest.approx(1 - level["images_with_detections"] / 5)

    page = check((out / "report.html").read_text(encoding="utf-8"), links=True)
    check_accessible(page)
    assert "False detections in 5 images" in page.text
    assert "1 image without targets could not be read" in page.text
    assert str(negatives) in page.text


def test_without_negatives_there_is_none(
    weights: str, data: str, tmp_path: Path, capsys: Any
) -> None:
    options = ["--data", data, "--device", "cpu", "--json", "-o", str(tmp_path / "out")]
    assert main(["eval", "-w", weights, *options]) == 0
    assert json.loads(capsys.readouterr().out)["over_activation"] is None
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "False detections" not in check(html, links=True).text


@pytest.mark.usefixtures("forked")
def test_several_processes_find_the_same(
    weights: str, data: str, negatives: Path, capfd: Any
) -> None:
    assert run(weights, data, negatives, "--json") == 0
    alone = json.loads(capfd.readouterr().out)["over_activation"]
    assert run(weights, data, negatives, "--json", "--nproc", "2") == 0
    together = json.loads(capfd.readouterr().out)["over_activation"]
    for name in ("images", "broken", "levels", "classes"):
        assert together[name] == alone[name]
    assert together["max_score"] == pytest.approx(alone["max_score"], abs=1e-6)


def test_annotated_images_among_them(weights: str, data: str, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    content = json.loads(Path(data).read_text(encoding="utf-8"))
    name = content["images"][0]["file_name"]
    (folder / "copy.png").write_bytes((Path(data).parent / name).read_bytes())
    assert run(weights, data, folder) == 0
    assert "1 of 1 images are evaluated on with boxes in them" in capsys.readouterr().err


def test_useless_places(weights: str, data: str, tmp_path: Path, capsys: Any) -> None:
    """Each is one clear line, before anything is measured."""
    empty, damaged, text = tmp_path / "nothing", tmp_path / "damaged", tmp_path / "notes.txt"
    picture = tmp_path / "one.png"
    empty.mkdir()
    damaged.mkdir()
    (damaged / "a.jpg").write_bytes(b"no picture")
    text.write_text("hello", encoding="utf-8")
    Image.new("RGB", (8, 8)).save(picture)
    for place, message in (
        (tmp_path / "nowhere", "there is no"),
        (empty, "holds no images"),
        (damaged, "none of the 1 image"),
        (text, "is neither a folder nor a data set"),
        (picture, "is neither a folder nor a data set"),
        (Path(data), "every image of"),
    ):
        assert run(weights, data, place) == 4, place
        captured = capsys.readouterr()
        assert "error: --negatives: " in captured.err
        assert message in captured.err
        assert not captured.out


def test_pictures_that_break_off(
    weights: str, data: str, negatives: Path, tmp_path: Path, capsys: Any
) -> None:
    """Headers alone do not show it: found when they are read."""
    folder = tmp_path / "all broken"
    folder.mkdir()
    (folder / "z.png").write_bytes((negatives / "z.png").read_bytes())
    assert run(weights, data, folder) == 4
    assert "none of the 1 images without targets can be read" in capsys.readouterr().err


def test_a_file_of_detections_has_no_model(data: str, tmp_path: Path, capsys: Any) -> None:
    options = ["--predictions", "p.json", "--annotations", data, "--negatives", str(tmp_path)]
    assert main(["eval", *options]) == 2
    assert "--negatives is for weights" in capsys.readouterr().err
