"""`detrkit dataset-analyze`: tables, JSON and HTML of data sets good and bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detrkit.cli.app import ALIASES, PANELS
from tests.cli.conftest import Run
from tests.data.conftest import CocoMaker, box, make_coco, save_image
from tests.report.parsing import check

__all__ = ["make_coco"]  # a fixture

NASTY = "<script>alert(1)</script> 猫 [red]"


def analyze(run: Run, *args: object) -> dict[str, Any]:
    result = run("dataset-analyze", *args, "--json")
    assert result.code == 0, result.err
    answer: dict[str, Any] = json.loads(result.out)
    return answer


@pytest.fixture
def data(make_coco: CocoMaker) -> Path:
    """Two splits that share a picture; a name full of markup; a box twice."""
    categories = [{"id": 4, "name": NASTY}, {"id": 9, "name": "dog"}]
    entries = [{"id": i, "file_name": f"{i} <i>.jpg", "height": 40, "width": 60} for i in range(6)]
    boxes = [box(1, 0, 4), box(2, 0, 4), box(3, 1, 9, bbox=[1, 1, 50, 30]), box(4, 2, 4, iscrowd=1)]
    path = make_coco(boxes, images=entries, categories=categories)
    make_coco([box(1, 0, 9)], images=entries[:3], categories=categories, split="val")
    return path.parent.parent


def test_tables(run: Run, data: Path) -> None:
    result = run("dataset-analyze", data)
    assert result.code == 0
    assert "9 images, 4 boxes, 2 classes; judged for 640x640, 300 queries" in result.out
    assert NASTY in result.out
    assert "Suspicious boxes: duplicate 1" in result.out
    assert "annotation 2" in result.out
    assert "What it means for training" in result.out


def test_alias_and_help(run: Run, data: Path) -> None:
    assert run("analyze", data).out == run("dataset-analyze", data).out
    assert "Also `analyze`" in " ".join(run("--help").out.replace("│", " ").split())
    assert "detrkit dataset-analyze" in run("analyze", "--help").out
    assert "did you mean `analyze`" in run("analyse", data).err
    commands = {name for names in PANELS.values() for name in names}
    assert set(ALIASES.values()) <= commands
    assert not set(ALIASES) & commands


def test_json(run: Run, data: Path) -> None:
    found = analyze(run, data)
    assert found["kind"] == "dataset-analyze"
    assert list(found["splits"]) == ["train", "val"]
    assert found["classes"] == {"names": [NASTY, "dog"], "category_ids": [4, 9]}
    assert (found["all"]["images"], found["all"]["boxes"], found["all"]["crowds"]) == (9, 4, 1)
    assert found["splits"]["train"]["empty_images"] == 4
    assert found["splits"]["train"]["classes"][0]["boxes"] == 2
    assert found["suspicious"]["counts"] == {"duplicate": 1}
    suspect = found["suspicious"]["boxes"][0]
    assert suspect["annotation_id"] == 2
    assert suspect["image_id"] == 0
    assert suspect["box_xyxy"] == [10, 5, 30, 20]
    assert found["duplicates"]["looked_at_pictures"] is False
    assert {a["code"] for a in found["advice"]} >= {"duplicate-boxes", "batch"}
    assert all(set(a) == {"code", "severity", "text", "change"} for a in found["advice"])


def test_images(run: Run, data: Path) -> None:
    # the maker draws picture i of each split with seed i
    found = analyze(run, data, "--images")
    assert found["duplicates"]["leaks"] == [{"of": "val", "also_in": "train", "images": 3}]
    assert "leak" in {advice["code"] for advice in found["advice"]}


def test_damaged_picture_is_named(run: Run, data: Path) -> None:
    file = next((data / "images" / "train").glob("5*"))
    file.write_bytes(file.read_bytes()[:-300])
    assert "corrupt_image" not in analyze(run, data)["counts"]
    found = analyze(run, data, "--images")
    assert found["counts"]["corrupt_image"] == 1
    assert str(file) in [fault["file"] for fault in found["faults"]]


@pytest.mark.parametrize("images", [False, True])
def test_html(run: Run, data: Path, tmp_path: Path, images: bool) -> None:
    file = tmp_path / "new" / "report.html"
    flags = ["--images"] if images else []
    result = run("dataset-analyze", data, "--html", file, "--top", 3, *flags)
    assert result.code == 0
    assert "report in" in result.err
    page = check(file.read_text(encoding="utf-8"))
    assert NASTY in page.text
    assert "0 <i>.jpg" in page.text
    assert ("img" in page.tags) == images
    for words in ("Overview", "What it means for training", "Classes", "Suspicious boxes"):
        assert words in page.text


def test_judged_for_a_config(run: Run, data: Path) -> None:
    found = analyze(run, data, "-c", "deimv2_atto_coco")
    setup = found["setup"]
    assert setup["image_spec"]["size"] == [320, 320]
    assert (setup["num_queries"], setup["strides"]) == (100, [16, 32])
    assert setup["queries_key"] == "DEIMTransformer.num_queries"
    assert setup["mosaic"] is True
    found = analyze(run, data, "-c", "dfine_n_coco", "--size", "480x640")
    assert found["setup"]["image_spec"]["size"] == [480, 640]
    assert (found["setup"]["batch"], found["setup"]["mosaic"]) == (128, False)


def test_one_split(run: Run, data: Path) -> None:
    found = analyze(run, data, "--split", "val")
    assert list(found["splits"]) == ["val"]
    assert found["differences"] == []
    single = analyze(run, data / "annotations" / "instances_val.json")
    assert "no-validation" not in {advice["code"] for advice in single["advice"]}


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["nowhere"], 4, "no such file"),
        (["{data}", "--split", "test"], 4, "no split `test`"),
        (["{data}", "--split", "all"], 2, "unknown split"),
        (["{data}", "--size", "100"], 2, "multiples of 32"),
        (["{data}", "--top", "0"], 2, "top"),
        (["{data}", "-c", "no_such_model"], 3, "no_such_model"),
        (["{data}", "--html", "{data}"], 1, "cannot write"),
    ],
)
def test_mistakes(run: Run, data: Path, args: list[str], code: int, message: str) -> None:
    result = run("dataset-analyze", *(arg.format(data=data) for arg in args))
    assert result.code == code
    assert message in result.err
    assert "Traceback" not in result.err


def images_only(**changes: Any) -> list[dict[str, Any]]:
    return [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60} | changes]


@pytest.mark.parametrize(
    ("boxes", "images"),
    [
        ([], None),
        ([box(1, iscrowd=1)], None),
        ([box(1, "x7"), box(2, "x7")], images_only(id="x7")),
        ([box("b"), box("c", bbox=[0, 0, 60, 40])], None),
        ([box(1, bbox=[50, 30, 100, 100]), box(2, bbox=[0, 0, 0, 5])], None),
        ([box(1, bbox=[float("nan"), 0, 4, 5]), box(2, category=77)], None),
    ],
    ids=["no boxes", "crowd only", "text image ids", "text box ids", "outside", "all bad"],
)
def test_odd_data(
    run: Run, make_coco: CocoMaker, tmp_path: Path, boxes: list[Any], images: list[Any] | None
) -> None:
    path = make_coco(boxes, images=images)
    found = analyze(run, path, "--images")
    assert found["all"]["images"] == 1
    html = tmp_path / "r.html"
    result = run("analyze", path, "--images", "--html", html)
    assert result.code == 0
    assert "nan" not in result.out.lower().replace("x nan to nan", "")
    check(html.read_text(encoding="utf-8"))


def test_file_names_that_are_no_text(run: Run, tmp_path: Path) -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    try:
        save_image(tmp_path / "images" / f"{name}.jpg")
    except (OSError, UnicodeError):
        pytest.skip("this file system has names in UTF-8 only")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / f"{name}.txt").write_text("0 .5 .5 .4 .4\n0 .5 .5 .4 .4\n")
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: images\n", encoding="utf-8")
    html = tmp_path / "r.html"
    result = run("analyze", tmp_path / "data.yaml", "--images", "--html", html)
    assert result.code == 0
    assert "caf?.jpg" in result.out
    found = analyze(run, tmp_path / "data.yaml")
    assert found["suspicious"]["counts"] == {"duplicate": 1}
    assert found["suspicious"]["boxes"][0]["file"].endswith(f"{name}.jpg")


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("bccd", {"leak", "class-imbalance"}),
        ("coco_cc", {"class-missing-in-train"}),
        ("ships_yolo_messy", {"annotations-left-out", "split-scale", "image-versions"}),
        ("aerial_cars", {"leak", "mixed-shapes"}),
        ("aerial_trees", {"queries", "max-detections"}),
        ("cards_yolo", {"small-data"}),
    ],
)
def test_real_data(
    run: Run, shared_data: Callable[[str], Path], tmp_path: Path, name: str, codes: set[str]
) -> None:
    found = analyze(run, shared_data(name), "--images", "--html", tmp_path / "r.html")
    assert codes <= {advice["code"] for advice in found["advice"]}
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    check(page)
    assert len(page) < 4e6
