"""`detrkit eval --review-out`: labels that are wrong on purpose come out, others do not."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from detrkit.data.detect import open_dataset
from tests.cli.conftest import Run
from tests.cli.test_compare import coco, write


def alone(boxes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first two boxes that share their image with no other."""
    images = [box["image_id"] for box in boxes]
    return [box for box in boxes if images.count(box["image_id"]) == 1][:2]


def disagreements(tmp_path: Path) -> tuple[Path, Path]:
    """Labels with one removed, one renamed and one put where nothing is; what a model finds."""
    right = coco()
    boxes = right["annotations"]
    found = [
        {"image_id": b["image_id"], "category_id": b["category_id"], "bbox": b["bbox"],
         "score": 0.95}
        for b in boxes
    ]  # fmt: skip
    removed, renamed = alone(boxes)
    nothing = {
        "id": 5000, "image_id": 40, "category_id": 4, "bbox": [90, 90, 9, 9], "area": 81,
        "iscrowd": 0,
    }  # fmt: skip
    labels = [b for b in boxes if b is not removed and b is not renamed] + [nothing]
    labels.append({**renamed, "category_id": 13 - renamed["category_id"]})
    truth = {**right, "annotations": labels}
    return write(tmp_path / "gt.json", truth), write(tmp_path / "p.json", found)


def review(run: Run, truth: Path, found: Path, file: Path) -> dict[str, Any]:
    done = run("eval", "--predictions", found, "--annotations", truth, "--review-out", file)
    assert done.code == 0, done.err
    assert str(file) in done.err
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def test_wrong_labels_come_out(run: Run, tmp_path: Path) -> None:
    truth, found = disagreements(tmp_path)
    content = review(run, truth, found, tmp_path / "deep" / "review.json")
    suspicious = [a for a in content["annotations"] if a["attributes"]["review"]]
    kinds = {a["attributes"]["review"]: a for a in suspicious}
    assert len(suspicious) == 3
    assert kinds.keys() == {"missing_label", "wrong_class", "unsupported"}
    removed, was = alone(coco()["annotations"])
    added, renamed = kinds["missing_label"], kinds["wrong_class"]
    assert added["bbox"] == removed["bbox"]
    assert added["category_id"] == removed["category_id"]
    assert added["id"] == 5001
    assert added["score"] == added["attributes"]["confidence"] == 0.95
    assert renamed["id"] == was["id"]
    right = {4: "cat", 9: "dog_猫"}[was["category_id"]]
    assert renamed["attributes"]["suggested"] == right
    assert kinds["unsupported"]["id"] == 5000
    images = [image["id"] for image in content["images"]]
    assert sorted(images) == sorted({a["image_id"] for a in suspicious})
    doubt = {a["image_id"]: a["attributes"]["doubt"] for a in suspicious}
    assert [doubt[i] for i in images] == sorted(doubt.values(), reverse=True)
    labels = json.loads(truth.read_text(encoding="utf-8"))["annotations"]
    kept = {a["id"] for a in labels if a["image_id"] in images}
    assert {a["id"] for a in content["annotations"]} == kept | {5001}


def test_tools_open_it(run: Run, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    truth, found = disagreements(tmp_path)
    file = tmp_path / "review.json"
    content = review(run, truth, found, file)
    assert [image["file_name"].count("/") for image in content["images"]] == [0, 0, 0]
    assert content["info"]["image_folder"].endswith("gone")
    with contextlib.redirect_stdout(io.StringIO()):
        tool = COCO(str(file))
    assert len(tool.getAnnIds()) == len(content["annotations"])
    index = open_dataset(file, check_images="none")
    assert index.num_boxes == len(content["annotations"])
    assert not index.faults.counts


def test_nothing_to_review(run: Run, tmp_path: Path) -> None:
    truth, _ = disagreements(tmp_path)
    content = review(run, truth, write(tmp_path / "none.json", []), tmp_path / "review.json")
    assert content["images"] == content["annotations"] == []
    assert [category["id"] for category in content["categories"]] == [4, 9]
