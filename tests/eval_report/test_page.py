"""`report.html`: self-contained, accessible, its numbers those of `metrics.json`."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image

from detrkit.cli.app import main
from detrkit.data.detect import open_dataset
from detrkit.drawing.thumbnails import Thumbnails
from detrkit.eval_report.remarks import remarks
from detrkit.metrics import Predictions, evaluate
from detrkit.metrics.coco import shown
from detrkit.metrics.schema import EvaluationJson
from tests.engine.bright import small_detector
from tests.engine.test_evaluator import write_coco
from tests.eval_report import made
from tests.metrics.made import scene
from tests.metrics.test_report import found, truth_of
from tests.report.parsing import check, check_accessible

Written = tuple[Path, str, dict[str, Any]]

SECTIONS = (
    "Overview", "What stands out", "Classes", "Curves", "Types of error", "Confusion",
    "Size and density", "Calibration", "Worst errors", "Labels to check",
    "Configuration and environment",
)  # fmt: skip


def test_the_page_is_self_contained_and_accessible(written: Written) -> None:
    page = check(written[1], links=True)
    check_accessible(page)
    for words in SECTIONS:
        assert words in page.text
    assert made.NASTY in page.text
    assert "prefers-color-scheme: dark" in written[1]
    assert "@media print" in written[1]


def test_numbers_are_those_of_metrics_json(written: Written) -> None:
    _, html, numbers = written
    text = check(html, links=True).text
    for name, value in numbers["metrics"].items():
        assert f"{name} {shown(value)}" in text
    for kind, cost in numbers["tide"]["cost"].items():
        assert f"{kind} {numbers['tide']['counts'][kind]} {cost:.2f}" in text
    for key in ("precision", "recall", "f1"):
        assert shown(numbers["yolo"]["overall"][key]) in text
    assert numbers["environment"]["numpy"] in text
    assert numbers.keys() >= EvaluationJson.__annotations__.keys()


def test_cases_have_pictures_that_lead_to_the_files(written: Written) -> None:
    folder, html, numbers = written
    page = check(html, links=True)
    worst = numbers["worst"]
    totals = {kind: part["total"] for kind, part in worst.items()}
    assert totals == {
        "false_positive": 1, "miss": 2, "confusion": 1, "missing_label": 1, "wrong_class": 1,
        "unsupported": 2,
    }  # fmt: skip
    assert page.tags.count("img") == sum(totals.values())
    links = {unquote(v) for t, k, v in page.attributes if (t, k) == ("a", "href") and v[0] != "#"}
    assert len(links) == 3
    for link in links:
        assert (folder / "out" / link).resolve() in [folder / name for name in made.FILES]
    alts = [value for _, key, value in page.attributes if key == "alt"]
    assert f"{made.NASTY} 0.95, in {made.FILES[6]}" in alts
    assert f"dog taken for x 0.85, in {made.FILES[5]}" in alts
    assert f"dog, 40 × 40 px, in {made.FILES[7]}" in alts
    case = worst["confusion"]["cases"][0]
    assert (case["annotation_id"], case["label"], case["detected"]) == (511, "dog", "x")
    assert Path(case["file"]) == folder / made.FILES[5]


def test_without_images_one_line_says_so(tmp_path: Path) -> None:
    html, numbers = made.evaluate(tmp_path, *made.write(tmp_path, images=False))
    page = check(html, links=True)
    check_accessible(page)
    assert "img" not in page.tags
    assert page.text.count("Without pictures: the images are not where they should be") == 1
    assert numbers["worst"]["false_positive"]["total"] == 1
    assert "dog" in page.text


def test_damaged_and_missing_images_leave_a_gap(tmp_path: Path) -> None:
    truth, results = made.write(tmp_path)
    (tmp_path / made.FILES[5]).write_bytes(b"no picture")
    (tmp_path / made.FILES[6]).unlink()
    html, numbers = made.evaluate(tmp_path, truth, results)
    page = check(html, links=True)
    check_accessible(page)
    assert page.tags.count("img") == 2  # those of the last image
    assert "no picture" in page.text
    assert "Without pictures" not in page.text
    assert numbers["worst"]["confusion"]["total"] == 1


def test_pictures_that_grew_show_the_same_place(tmp_path: Path) -> None:
    """Boxes are in annotated pixels; a file of twice the size is scaled, not cut elsewhere."""
    truth, _ = made.write(tmp_path)
    file = tmp_path / made.FILES[6]
    white = Image.new("RGB", (440, 300), "white")
    white.paste((0, 0, 0), (200, 20, 260, 80))  # the false detection, twice as large
    white.save(file)
    index = open_dataset(truth, check_images="none")
    uri = Thumbnails({"": index}).crop("", 6, [((100, 10, 130, 40), (255, 0, 0))])
    picture = read_uri(uri)
    middle = picture.getpixel((picture.width // 2, picture.height // 3))
    assert max(middle) < 60


def read_uri(uri: str) -> Any:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize(
    ("annotations", "results"),
    [([], []), ([], [{"image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.9}])],
    ids=["nothing", "no boxes"],
)
def test_pages_of_nothing(tmp_path: Path, annotations: list[Any], results: list[Any]) -> None:
    truth, file = made.write(tmp_path)
    content = json.loads(truth.read_text(encoding="utf-8"))
    truth.write_text(json.dumps({**content, "annotations": annotations}), encoding="utf-8")
    file.write_text(json.dumps(results), encoding="utf-8")
    html, _ = made.evaluate(tmp_path, truth, file)
    page = check(html, links=True)
    check_accessible(page)
    assert "There are no boxes to find" in page.text
    assert "nan" not in page.text.lower().split()


def test_names_of_files_that_are_no_text(tmp_path: Path) -> None:
    """Bytes of a file system that are no UTF-8, as Python reads them."""
    truth, file = made.write(tmp_path, images=False)
    content = json.loads(truth.read_text(encoding="utf-8"))
    content["images"][6]["file_name"] = "caf\udce9.jpg"
    truth.write_text(json.dumps(content), encoding="utf-8")
    html, numbers = made.evaluate(tmp_path, truth, file)
    assert "caf?.jpg" in check(html, links=True).text
    assert numbers["worst"]["false_positive"]["cases"][0]["file"].endswith("caf\udce9.jpg")


def test_left_out_rows_are_said(tmp_path: Path) -> None:
    truth, file = made.write(tmp_path)
    rows = json.loads(file.read_text(encoding="utf-8"))
    rows.append({"image_id": 77, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.1})
    file.write_text(json.dumps(rows), encoding="utf-8")
    html, _ = made.evaluate(tmp_path, truth, file)
    assert "1 detection left out" in check(html, links=True).text


def test_many_classes_stay_bounded(tmp_path: Path) -> None:
    """Curves and matrix of the most important classes; the table has all."""
    truth, file = made.write(tmp_path)
    content = json.loads(truth.read_text(encoding="utf-8"))
    content["categories"] += [{"id": 10 + i, "name": f"more{i:03d}"} for i in range(300)]
    for n, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = 10 + n
    truth.write_text(json.dumps(content), encoding="utf-8")
    html, _ = made.evaluate(tmp_path, truth, file)
    page = check(html, links=True)
    assert "more299" in page.text
    assert "The 30 classes with most errors" in page.text
    assert len(html) < 2_000_000


def test_reports_of_weights_tell_speed_and_configuration(tmp_path: Path) -> None:
    weights = small_detector(tmp_path / "best.pth")
    write_coco(tmp_path, [7, 3, 12, 5])
    out = tmp_path / "out"
    data = str(tmp_path / "instances_val.json")
    options = ["--data", data, "--device", "cpu", "--batch", "2", "-o", str(out)]
    assert main(["eval", "-w", str(weights), *options]) == 0
    numbers = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    page = check((out / "report.html").read_text(encoding="utf-8"), links=True)
    check_accessible(page)
    assert "Speed and size" in page.text
    assert "images per second on" in page.text
    assert "parameters, million" in page.text
    assert numbers["environment"]["torch"] in page.text
    assert numbers["config"] is None or "Configuration" in page.text


def codes(found_: Any) -> Mapping[str, str]:
    return {remark.code: remark.text for remark in remarks(found_)}


def test_remarks_say_what_is_there() -> None:
    box, other = (10, 10, 60, 60), (100, 100, 150, 150)
    truth = truth_of(*[[(0, *box), (1, *other)]] * 9)
    perfect = [(i, label, 0.95, b) for i in range(9) for label, b in ((0, box), (1, other))]
    assert codes(evaluate(truth, found(*perfect))) == {}
    one_class = codes(evaluate(truth, found(*(row for row in perfect if row[1] == 0))))
    assert "`b`" in one_class["never-found"]
    assert "`Miss`" in one_class["greatest-loss"]
    assert codes(evaluate(truth_of([], []), Predictions.empty())).keys() == {"no-boxes"}
    empty = truth_of(*[[(0, *box)]] * 5, [], [])
    rows = [(i, 0, 0.9, box) for i in range(7)]
    assert "2 of 2 images" in codes(evaluate(empty, found(*rows)))["background"]


def test_remarks_of_anything_are_sentences() -> None:
    for seed in range(20):
        for remark in remarks(evaluate(*scene(seed))):
            assert remark.level in ("warning", "hint", "note")
            assert "nan" not in remark.text
