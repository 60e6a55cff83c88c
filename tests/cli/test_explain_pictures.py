"""`detrkit explain heatmap`, `attention`, `features` and `erf` through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Run
from tests.engine.bright import picture

COMMANDS = ("heatmap", "attention", "features", "erf")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pictures in `in`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    picture().save(tmp_path / "in" / "a.png")
    picture().save(tmp_path / "in" / "sub" / "a.png")
    picture((50, 60), (5, 5, 30, 30)).save(tmp_path / "in" / "猫.jpg")
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_heat_maps_of_a_folder(run: Run, weights: str, place: Path) -> None:
    result = run("explain", "heatmap", "-w", weights, "in", "--conf", "0", "--max-det", "2")
    assert result.code == 0, result.err
    folder = place / "explain" / "heatmap"
    assert names(folder) == ["a-2.npz", "a-2.png", "a.npz", "a.png", "猫.npz", "猫.png"]
    with Image.open(folder / "a.png") as drawn:
        assert drawn.width == pytest.approx(6.9 * 300, abs=1)
    assert len(result.out.splitlines()) == 3
    assert "3 images; figures and numbers in" in result.err
    again = run("explain", "heatmap", "-w", weights, "in/a.png", "--conf", "0", "--max-det", "2")
    assert again.code == 0
    assert names(place / "explain" / "heatmap-2") == ["a.npz", "a.png"]


def test_json_and_formats(run: Run, weights: str, place: Path) -> None:
    result = run(
        "explain", "heatmap", "-w", weights, "in/a.png", "--conf", "0", "--max-det", "3", "--json",
        "--method", "gradcam,rollout", "--each", "--format", "svg", "--format", "pdf", "--width",
        "column", "-o", "mine", "--of", "box",
    )  # fmt: skip
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer["kind"] == "heatmap"
    (image,) = answer["images"]
    assert [Path(file).name for file in image["figures"]] == ["a.svg", "a.pdf"]
    assert (image["explained"], len(image["detections"])) == ("box", 3)
    assert {(m["method"], m["detection"]) for m in image["maps"]} == {
        (method, i) for method in ("gradcam", "rollout") for i in range(3)
    }
    assert names(place / "mine") == ["a.npz", "a.pdf", "a.svg"]
    assert "Grad-CAM" in (place / "mine" / "a.svg").read_text(encoding="utf-8")


def test_attention_features_and_fields(run: Run, weights: str, place: Path) -> None:
    attention = run("explain", "attention", "-w", weights, "in/a.png", "--conf", "0")
    assert attention.code == 0, attention.err
    assert names(place / "explain" / "attention") == ["a.npz", "a.png"]
    features = run(
        "explain", "features", "-w", weights, "in/a.png", "--layer", "encoder", "--channels", "5",
        "--energy", "mean,pca",
    )  # fmt: skip
    assert features.code == 0, features.err
    made = names(place / "explain" / "features")
    assert made[:2] == ["a-encoder.outputs[0].png", "a-encoder.outputs[1].png"]
    assert made[-2:] == ["a.npz", "a.png"]
    fields = run("explain", "erf", "-w", weights, "--images", "2", "--layer", "encoder")
    assert fields.code == 0, fields.err
    assert names(place / "explain" / "erf") == ["erf.csv", "erf.npz", "erf.png"]
    assert "encoder.outputs[0]" in fields.out
    assert "r 20%" in fields.out
    measured = run("explain", "erf", "-w", weights, "in", "--images", "2", "--json")
    assert measured.code == 0, measured.err
    answer = json.loads(measured.out)
    assert answer["measured_on"] == {"images": 2, "kind": "pictures"}
    assert len(answer["rectangles"]) == 8 * len({r["layer"] for r in answer["rectangles"]})


def test_a_chosen_detection(run: Run, weights: str, place: Path) -> None:
    every = run("explain", "attention", "-w", weights, "in/a.png", "--conf", "0", "--json")
    detections = json.loads(every.out)["images"][0]["detections"]
    chosen = run(
        "explain", "attention", "-w", weights, "in/a.png", "--conf", "0", "--json", "--detection",
        "3", "--detection", "1",
    )  # fmt: skip
    assert chosen.code == 0, chosen.err
    assert json.loads(chosen.out)["images"][0]["detections"] == [detections[3], detections[1]]
    (heat,) = json.loads(
        run(
            "explain", "heatmap", "-w", weights, "in/a.png", "--conf", "0", "--json",
            "--detection", "1", "--method", "layercam,cross-attention", "--per-layer",
        ).out
    )["images"]  # fmt: skip
    assert {one["detection"] for one in heat["maps"]} == {1}
    looked = [one["layer"] for one in heat["maps"] if one["method"] == "cross-attention"]
    assert looked
    assert all(name.startswith("decoder.") for name in looked)
    boxes = run(
        "explain", "distribution", "-w", weights, "in/a.png", "--conf", "0", "--json",
        "--detection", "2", "-o", "boxes",
    )  # fmt: skip
    assert boxes.code == 0, boxes.err
    (box,) = json.loads(boxes.out)["images"][0]["detections"]
    assert box["query"] == detections[2]["query"]
    assert names(place / "boxes") == ["a-3.png", "a.npz", "distribution.csv"]
    for command in ("heatmap", "attention", "distribution"):
        none = run(
            "explain", command, "-w", weights, "in", "--conf", "0", "--detection", "999", "-o", "no"
        )
        assert none.code == 2
        assert "no detection 999" in none.err
    assert not (place / "no").exists()


def test_nothing_found_is_no_mistake(run: Run, weights: str, place: Path) -> None:
    for command in ("heatmap", "attention"):
        result = run("explain", command, "-w", weights, "in/a.png", "--conf", "1")
        assert result.code == 0, result.err
        assert "nothing scores 1 or more" in result.out
    assert not (place / "explain").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_broken_pictures_are_told_and_the_rest_is_done(
    command: str, run: Run, weights: str, place: Path
) -> None:
    (place / "in" / "broken.png").write_bytes(b"\x89PNG nothing")
    (place / "in" / "clip.mp4").write_bytes(b"nothing")
    more = {
        "heatmap": ["--conf", "0", "--max-det", "2"],
        "attention": ["--conf", "0", "--detections", "1"],
        "features": ["--layer", "encoder", "--channels", "0"],
        "erf": ["--layer", "encoder"],
    }[command]
    result = run("explain", command, "-w", weights, "in", *more, "-o", "mine")
    assert result.code == 4
    assert "broken.png" in result.err
    assert "not videos" in result.err
    assert "the others are done" in result.err
    assert "broken.png" in (place / "mine" / "broken.txt").read_text(encoding="utf-8")
    alone = run("explain", command, "-w", weights, "in/broken.png", "-o", "alone")
    assert alone.code == 4
    assert not (place / "alone").exists()


@pytest.mark.parametrize("command", ["heatmap", "features", "erf"])
def test_layers(command: str, run: Run, weights: str, place: Path) -> None:
    result = run("explain", command, "-w", weights, "--layers")
    assert result.code == 0, result.err
    assert "encoder.outputs[0]" in result.out
    assert "HybridEncoder" in result.out
    wrong = run("explain", command, "-w", weights, "in/a.png", "--layer", "encodr", "--json")
    assert wrong.code == 2
    assert "no layer `encodr`, did you mean `encoder`?" in wrong.err
    assert "--layers" in wrong.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["heatmap"], "no SOURCE"),
        (["attention"], "no SOURCE"),
        (["features"], "no SOURCE"),
        (["heatmap", "in", "--method", "gradcan"], "did you mean `gradcam`"),
        (["heatmap", "in", "--of", "score"], "no explained number `score`"),
        (["heatmap", "in", "--width", "wide"], "give column"),
        (["heatmap", "in", "--classes", "cow"], "cow"),
        (["heatmap", "in/a.png", "--conf", "0", "--detection", "99"], "no detection 99"),
        (["features", "in", "--energy", "meen"], "did you mean `mean`"),
        (["features", "missing.jpg"], "missing.jpg"),
        (["heatmp", "in"], "did you mean `heatmap`"),
    ],
)
def test_mistakes(args: list[str], message: str, run: Run, weights: str, place: Path) -> None:
    result = run("explain", args[0], "-w", weights, *args[1:])
    assert result.code in (2, 4), result.err
    assert message in result.err
    assert not (place / "explain").exists()


def test_a_picture_without_that_detection_is_passed_over(
    run: Run, weights: str, place: Path
) -> None:
    """Between the best scores of two pictures one has a detection, the other has none."""
    args = ("-w", weights, "in/a.png", "in/猫.jpg", "--json")
    found = json.loads(run("infer", *args, "--conf", "0", "--max-det", "1", "--no-draw").out)
    first, second = (image["detections"][0]["score"] for image in found["images"])
    assert first != second
    conf = (first + second) / 2
    result = run("explain", "heatmap", *args, "--conf", conf, "--detection", "0", "-o", "mine")
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert sorted(bool(image["maps"]) for image in answer["images"]) == [False, True]


def test_numbers_are_those_of_the_figure(run: Run, weights: str, place: Path) -> None:
    args = ("heatmap", "-w", weights, "in/a.png", "--conf", "0", "--max-det", "1", "--json")
    answer = json.loads(run("explain", *args).out)
    arrays = np.load(place / answer["images"][0]["numbers"])
    for one in answer["images"][0]["maps"]:
        values = arrays[f"{one['method']}/{one['layer']}/all"]
        assert values.max() == pytest.approx(one["largest"])
