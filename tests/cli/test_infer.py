"""`detrkit infer`: pictures, JSON lines, broken files, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit.cli.app import main
from tests.data.conftest import refused_images
from tests.engine.bright import picture, small_detector


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_detector(tmp_path_factory.mktemp("weights") / "best.pth"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    picture().save(tmp_path / "in" / "a.png")
    picture().save(tmp_path / "in" / "sub" / "a.png")
    picture((50, 60), (5, 5, 30, 30)).save(tmp_path / "in" / "猫.jpg")
    return tmp_path


def run(weights: str, *args: str) -> int:
    return main(["infer", "-w", weights, "--device", "cpu", *args])


def test_pictures_and_lines(weights: str, folder: Path, capsys: Any) -> None:
    assert run(weights, "in", "--conf", "0", "--max-det", "5") == 0
    out = folder / "runs" / "infer-1"
    assert sorted(p.name for p in out.iterdir()) == [
        "a-2.jpg",
        "a.jpg",
        "detections.jsonl",
        "猫.jpg",
    ]
    with Image.open(out / "a.jpg") as drawn:
        assert drawn.size == (192, 128)
        assert np.asarray(drawn).any()
    lines = (out / "detections.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    assert [(e["height"], e["width"]) for e in entries] == [(128, 192), (50, 60), (128, 192)]
    found = entries[0]["detections"]
    assert len(found) == 5
    assert set(found[0]) == {"label", "category_id", "score", "box_xyxy"}
    assert found[0]["label"] in ("cat", "猫", "dog")
    assert "5 detections" in capsys.readouterr().out


def test_a_second_run_gets_its_own_folder(weights: str, folder: Path) -> None:
    assert run(weights, "in/a.png") == run(weights, "in/a.png") == 0
    assert (folder / "runs" / "infer-2").is_dir()
    assert run(weights, "in/a.png", "-o", "mine", "--no-draw") == 0
    assert [p.name for p in (folder / "mine").iterdir()] == ["detections.jsonl"]


def test_json_is_one_object(weights: str, folder: Path, capsys: Any) -> None:
    assert run(weights, "in/*.png", "--conf", "0", "--classes", "cat,2", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["kind"], answer["version"]) == ("infer", 1)
    (image,) = answer["images"]
    assert {d["label"] for d in image["detections"]} <= {"cat", "dog"}
    assert (folder / image["picture"]).is_file()


def test_broken_files_are_listed_and_the_rest_is_done(
    weights: str, folder: Path, capsys: Any
) -> None:
    (folder / "in" / "broken.png").write_bytes(b"\x89PNG nothing")
    assert run(weights, "in") == 4
    captured = capsys.readouterr()
    assert "1 image could not be read" in captured.err
    assert "broken.png" in captured.err
    assert len(captured.out.splitlines()) == 3
    assert run(weights, "in/broken.png", "--json") == 4
    answer = json.loads(capsys.readouterr().out)
    assert answer["images"] == []
    assert "broken.png" in answer["broken"][0]["image"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["missing.png"], 4, "file not found"),
        (["in/*.gif"], 4, "no images match"),
        (["in", "--classes", "dgo"], 2, "did you mean `dog`"),
        (["in", "--conf", "2"], 2, "conf"),
        (["in", "--device", "quantum"], 2, "no device `quantum`"),
    ],
)
def test_mistakes(
    weights: str, folder: Path, capsys: Any, args: list[str], code: int, message: str
) -> None:
    assert run(weights, *args) == code
    assert message in capsys.readouterr().err
    assert not (folder / "runs").exists()  # nothing was begun


def test_missing_weights(folder: Path, capsys: Any) -> None:
    assert main(["infer", "-w", "no.pth", "in"]) == 5
    assert "no.pth" in capsys.readouterr().err


def test_hostile_images_do_not_crash(
    weights: str, shared_data: Callable[[str], Path], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """36 damaged, odd and oddly named files: those that Pillow reads, and no others, are done."""
    files = shared_data("hostile_images") / "files"
    monkeypatch.chdir(tmp_path)
    assert run(weights, str(files), "--conf", "0", "--max-det", "3") == 4
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 25
    assert "11 images could not be read" in captured.err
    lines = (tmp_path / "runs/infer-1/detections.jsonl").read_text(encoding="utf-8").splitlines()
    sizes = {Path(e["image"]).name: (e["width"], e["height"]) for e in map(json.loads, lines)}
    assert sizes["exif_orient_6.jpg"] == (600, 450)
    assert sizes["two_by_two.png"] == (2, 2)
    assert sizes.keys() == {path.name for path in files.iterdir()} - refused_images(files.parent)
