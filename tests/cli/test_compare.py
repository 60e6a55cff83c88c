"""`detrkit compare`: runs, reports and detections, their files, and inputs that do not fit."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Run

IMAGES = 60
CLASSES = {4: "cat", 9: "dog_猫"}


def coco(seed: int = 0, classes: dict[int, str] | None = None) -> dict[str, Any]:
    """Images that do not exist, with one to three boxes each."""
    rng = np.random.default_rng(seed)
    classes = classes or CLASSES
    annotations = []
    for image in range(1, IMAGES + 1):
        for _ in range(rng.integers(1, 4)):
            x, y, w, h = (float(v) for v in rng.integers(10, 45, 4))
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "bbox": [x, y, w, h],
                 "category_id": int(rng.choice(list(classes))), "iscrowd": 0, "area": w * h}
            )  # fmt: skip
    return {
        "images": [
            {"id": i, "file_name": f"gone/{i}.jpg", "height": 100, "width": 100}
            for i in range(1, IMAGES + 1)
        ],
        "categories": [{"id": id_, "name": name} for id_, name in classes.items()],
        "annotations": annotations,
    }


def detections(truth: dict[str, Any], shift: float, seed: int = 1) -> list[dict[str, Any]]:
    """All boxes, moved by about `shift` pixels."""
    rng = np.random.default_rng(seed)
    found = []
    for box in truth["annotations"]:
        x, y, w, h = box["bbox"]
        dx, dy = rng.normal(0, shift, 2).tolist()
        found.append(
            {"image_id": box["image_id"], "category_id": box["category_id"],
             "bbox": [x + dx, y + dy, w, h], "score": float(rng.random())}
        )  # fmt: skip
    return found


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write(tmp_path / "gt.json", coco())


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path / "good.json", detections(coco(), 1))


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    return write(tmp_path / "bad.json", detections(coco(), 6, seed=2))


def report(run: Run, found: Path, truth: Path, folder: Path, *, keep: bool) -> Path:
    """A folder of `eval -o`, with or without its detections."""
    options = ["--predictions-out", folder / "predictions.json"] if keep else []
    done = run("eval", "--predictions", found, "--annotations", truth, "-o", folder, *options)
    assert done.code == 0
    return folder


def test_detections_and_all_files(
    run: Run, tmp_path: Path, truth: Path, good: Path, bad: Path
) -> None:
    folder = tmp_path / "out" / "deep"
    done = run(
        "compare", f"a_b={bad}", f"better & <best>={good}", "--data", truth, "--samples", 100,
        "-o", folder,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "better & <best> is" in done.out
    assert "significant" in done.out
    assert "100 draws of the 60 images" in done.out
    assert {file.name for file in folder.iterdir()} == {
        "compare.html", "compare.json", "metrics.csv", "classes.csv", "table.md", "table.tex",
    }  # no curves without runs  # fmt: skip
    found = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for model in found["models"]:
        for row in (r for r in rows if r["model"] == model["name"] and r["value"]):
            assert float(row["value"]) == model["metrics"][row["metric"]]
    latex = (folder / "table.tex").read_text(encoding="utf-8")
    assert r"better \& \textless{}best\textgreater{} & \textbf{" in latex
    assert r"a\_b & " in latex
    assert r"a\_b |" in (folder / "table.md").read_text(encoding="utf-8")
    page = (folder / "compare.html").read_text(encoding="utf-8")
    assert "better &amp; &lt;best&gt;" in page
    assert "<best>" not in page
    classes = (folder / "classes.csv").read_text(encoding="utf-8")
    assert "dog_猫" in classes


def test_numbers_are_those_of_eval(
    run: Run, tmp_path: Path, truth: Path, good: Path, bad: Path
) -> None:
    first = report(run, bad, truth, tmp_path / "first", keep=True)
    second = report(run, good, truth, tmp_path / "second", keep=True)
    done = run("compare", first, second / "metrics.json", "--json", "--samples", 200)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["kind"] == "compare"
    assert [model["name"] for model in found["models"]] == ["first", "second"]
    for folder, model in zip((first, second), found["models"], strict=True):
        stated = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        assert model["recounted"]
        assert model["metrics"] == pytest.approx(stated["metrics"], abs=1e-12)
        assert model["classes"] == pytest.approx({c["name"]: c["AP"] for c in stated["classes"]})
        limits = model["intervals"]["AP"]
        assert limits["low"] < model["metrics"]["AP"] < limits["high"]
    a, b = (model["metrics"]["AP"] for model in found["models"])
    delta = found["differences"][0]["metrics"]["AP"]
    assert delta["delta"] == pytest.approx(b - a)
    assert delta["low"] < delta["delta"] < delta["high"]
    assert delta["significant"] is True
    assert {w["model"] for w in found["winners"].values()} == {"second"}
    again = json.loads(run("compare", first, second, "--json", "--samples", 200).out)
    assert again["differences"] == found["differences"]
    other = json.loads(run("compare", first, second, "--json", "--samples", 200, "--seed", 1).out)
    assert other["differences"] != found["differences"]


def test_equal_models_do_not_differ(run: Run, tmp_path: Path, truth: Path, good: Path) -> None:
    other = write(tmp_path / "other.json", detections(coco(), 1, seed=5))
    done = run("compare", good, other, "--data", truth, "--json", "--samples", 200)
    delta = json.loads(done.out)["differences"][0]["metrics"]["AP"]
    assert delta["low"] < 0 < delta["high"]
    assert delta["significant"] is False
    same = run("compare", f"a={good}", f"b={good}", "--data", truth, "--json")
    found = json.loads(same.out)
    assert found["conclusions"][0].startswith("b has the AP of a")
    assert found["differences"][0]["metrics"]["AP"]["significant"] is False
    assert {w["model"] for w in found["winners"].values()} == {None}


def test_reports_without_detections(
    run: Run, tmp_path: Path, truth: Path, good: Path, bad: Path
) -> None:
    first = report(run, bad, truth, tmp_path / "first", keep=False)
    second = report(run, good, truth, tmp_path / "second", keep=True)
    done = run("compare", first, second)
    assert done.code == 0
    assert "first: no intervals: its detections were not kept" in done.err
    assert "whether that is chance is not known" in done.out
    assert "[" not in done.out
    found = json.loads(run("compare", first, second, "--json").out)
    assert found["bootstrap"] is None
    assert found["differences"][0]["metrics"]["AP"]["delta"] > 0
    (second / "predictions.json").unlink()
    done = run("compare", first, second)
    assert done.code == 0
    assert "predictions.json, do not exist" in done.err


def test_runs(run: Run, tmp_path: Path, truth: Path, good: Path, bad: Path) -> None:
    """Curves of the log; a damaged line, and a run whose data is gone."""
    for name, ap in (("one", 0.2), ("two", 0.4)):
        rows = [
            {"epoch": e, "train/loss": 3.0 - e, "val/AP": ap * e, "val/AP50": ap * e, "best": e > 0}
            for e in range(3)
        ]
        text = "\n".join(map(json.dumps, rows)) + '\n{"epoch": 3, "val'
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text(text, encoding="utf-8")
        (tmp_path / name / "config.yml").write_text("data: gone\n", encoding="utf-8")
    folder = tmp_path / "out"
    done = run("compare", tmp_path / "one", tmp_path / "two", "-o", folder)
    assert done.code == 0, done.err
    assert "two is 0.400 AP better than one" in done.out
    assert "best_predictions.json, do not exist" in done.err
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png;base64," in (folder / "compare.html").read_text(encoding="utf-8")
    for name, file in (("one", bad), ("two", good)):
        (tmp_path / name / "best_predictions.json").write_bytes(file.read_bytes())
    done = run("compare", tmp_path / "one", tmp_path / "two")
    assert done.code == 0
    assert "its ground truth cannot be read" in done.err
    done = run("compare", tmp_path / "one", tmp_path / "two", "--data", truth, "--json")
    assert done.code == 0
    assert "its own log says 0.4000: other annotations" in done.err
    found = json.loads(done.out)
    assert [model["best_epoch"] for model in found["models"]] == [3, 3]
    assert found["bootstrap"]["images"] == IMAGES


def test_ground_truth_of_a_run_is_that_of_its_config(run: Run, tmp_path: Path) -> None:
    """A run, and a report on the validation data of the same config, are paired."""
    from detrkit.config import load_config
    from detrkit.engine.evaluation import validation_index
    from detrkit.metrics.truth import Truth

    config = load_config("quickstart").dump()
    index, name = validation_index(load_config("quickstart"))
    truth = Truth.of(index)
    rng = np.random.default_rng(0)
    found = [
        {"image_id": truth.image_ids[image], "category_id": truth.class_map.category_ids[label],
         "bbox": box, "score": score}
        for image, label, box, score in zip(
            truth.images.tolist(), truth.labels.tolist(), truth.boxes_xywh.tolist(),
            rng.random(len(truth.labels)).tolist(), strict=True,
        )
    ]  # fmt: skip
    folder = tmp_path / "run"
    write(folder / "log.jsonl", {"epoch": 0, "val/AP": 1.0, "best": True})
    (folder / "config.yml").write_text(config, encoding="utf-8")
    write(folder / "best_predictions.json", found)
    gt = write(tmp_path / "gt.json", coco())
    worse = write(tmp_path / "p.json", detections(coco(), 1))
    half = report(run, worse, gt, tmp_path / "half", keep=True)
    write(half / "predictions.json", found[::2])
    content = json.loads((half / "metrics.json").read_text(encoding="utf-8"))
    content = {**content, "data": name, "config": config, "classes": []}
    write(half / "metrics.json", content)
    done = run("compare", folder, half, "--json", "--samples", 20)
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["bootstrap"]["images"] == len(truth)
    assert answer["models"][0]["metrics"]["AP"] == pytest.approx(1)
    assert answer["differences"][0]["metrics"]["AP"]["significant"] is True
    assert "its own report says" in done.err
    write(half / "metrics.json", {**content, "data": "gone, val"})
    done = run("compare", folder, half, "--json")
    assert done.code == 0
    assert "does not say where its ground truth is" in done.err


def test_other_data(run: Run, tmp_path: Path, truth: Path, good: Path) -> None:
    first = report(run, good, truth, tmp_path / "first", keep=True)
    content = coco(seed=9)
    gt = write(tmp_path / "gt9.json", content)
    found = write(tmp_path / "p9.json", detections(content, 1))
    second = report(run, found, gt, tmp_path / "second", keep=True)
    done = run("compare", first, second)
    assert done.code == 0
    assert "different data (other boxes)" in done.err
    assert "not known" in done.out
    content = coco(seed=9, classes={1: "ship", 2: "car"})
    gt = write(tmp_path / "gt3.json", content)
    found = write(tmp_path / "p3.json", detections(content, 1))
    third = report(run, found, gt, tmp_path / "third", keep=True)
    done = run("compare", first, third)
    assert done.code == 4
    assert "no class in common (cat, dog_猫; ship, car)" in done.err


def test_few_images_and_no_detections(run: Run, tmp_path: Path) -> None:
    content = coco()
    content["images"] = content["images"][:3]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] <= 3]
    gt = write(tmp_path / "gt.json", content)
    some = write(tmp_path / "some.json", detections(content, 1))
    none = write(tmp_path / "none.json", [])
    done = run("compare", some, none, "--data", gt, "--json", "--samples", 50)
    assert done.code == 0, done.err
    assert "3 images: too few for intervals to be exact" in done.err
    assert json.loads(done.out)["models"][1]["metrics"]["AP"] == 0


def test_torch_stays_unimported(truth: Path, good: Path, bad: Path) -> None:
    code = (
        "import sys; from detrkit.cli.app import main;"
        "code = main(sys.argv[1:]);"
        "sys.exit('imports torch' if 'torch' in sys.modules else code)"
    )
    command = [sys.executable, "-c", code, "compare", good, bad, "--data", truth]
    done = subprocess.run([*map(str, command)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gt.json"], 2, "at least two"),
        (["gone", "good.json"], 2, "gone: no such file or folder"),
        (["good.json", "bad.json"], 2, "detections alone say nothing"),
        (["gt.json", "gt.json"], 2, "comes twice"),
        (["good.json", "bad.json", "--split", "val"], 2, "--split is a part of --data"),
        (["good.json", "bad.json", "--data", "gone.json"], 4, "gone.json"),
        (["a=gt.json", "b=gt.json"], 2, "is no metrics.json"),
        ([".", "good.json", "--data", "gt.json"], 2, "neither log.jsonl nor metrics.json"),
        (["good.json", "x.pth", "--data", "gt.json"], 2, "x.pth cannot be compared"),
        (["good.json", "broken.json", "--data", "gt.json"], 4, "broken.json"),
        (["good.json", "bad.json", "--data", "gt.json", "-o", "gt.json"], 1, "cannot write"),
        (["empty", "good.json", "--data", "gt.json"], 4, "no epoch has ended"),
    ],
)
def test_mistakes(
    run: Run, tmp_path: Path, truth: Path, good: Path, bad: Path, monkeypatch: Any,
    arguments: list[str], code: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pth").write_bytes(b"")
    (tmp_path / "broken.json").write_text('[{"image_id": 1', encoding="utf-8")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "log.jsonl").write_text("", encoding="utf-8")
    done = run("compare", *arguments)
    assert done.code == code, done.err
    assert message in done.err
