"""The data section: faults by kind and class, what is left out, classes, images, queries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrkit.config import Config
from detrkit.data import open_splits
from detrkit.data.faults import FaultKind, Policy
from detrkit.data.index import DatasetIndex
from detrkit.engine.derive import TrainFlags, load_with_flags
from detrkit.engine.doctor import image_checks
from detrkit.engine.doctor.data import DataSeen, examine_data, read_data
from detrkit.engine.doctor.fault_checks import HINTS, fault_checks, skipped_check
from detrkit.engine.doctor.image_checks import decode_check, leak_checks
from detrkit.engine.doctor.report import Check, Section, Status
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_coco, write_config


def code(checks: list[Check] | Section, name: str) -> Check:
    found = [
        c for c in (checks.checks if isinstance(checks, Section) else checks) if c.code == name
    ]
    assert len(found) == 1, [c.code for c in checks] if isinstance(checks, list) else checks
    return found[0]


def edit(root: Path, split: str, change: Callable[[dict], None]) -> None:
    """Changes an annotation file."""
    file = root / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "data", train=12, val=6)


@pytest.fixture
def cfg(tmp_path: Path, data: Path) -> Config:
    config = write_config(tmp_path, REPOSITORY)
    return load_with_flags(config, TrainFlags(data=str(data)))


def parts(root: Path) -> dict[str, DatasetIndex]:
    return open_splits(root)


def test_good_data(cfg: Config) -> None:
    seen = read_data(cfg, 0)
    section = examine_data(seen, cfg)
    assert seen.train is not None
    assert seen.val is not None
    bad = [c for c in section.checks if c.status in (Status.WARNING, Status.PROBLEM)]
    assert not bad
    assert code(section, "data.splits").values["train"]["images"] == 12
    assert code(section, "data.pixels").values["decoded"] == 18


def test_every_fault_has_a_hint() -> None:
    assert {kind.name for kind in FaultKind if kind.policy is not Policy.STOP} <= set(HINTS)


def test_faults_by_kind_and_class(data: Path) -> None:
    def spoil(content: dict) -> None:
        first, second, third, fourth = content["annotations"][:4]
        first["bbox"][2] = 0
        second["bbox"][0] = -500
        third["category_id"] = 99
        fourth["id"] = content["annotations"][4]["id"]

    edit(data, "train", spoil)
    before = json.loads((data / "annotations" / "instances_train.json").read_text())
    names = {3: "red", 7: "green"}
    empty_class = names[before["annotations"][0]["category_id"]]
    checks = fault_checks(parts(data), data)
    empty = code(checks, "data.empty_box")
    assert empty.values["count"] == 1
    assert empty.values["classes"] == {empty_class: 1}
    assert empty.values["parts"] == {"train": 1, "val": 0}
    assert empty.values["policy"] == "skip"
    assert "1 in train" in empty.text
    assert empty.details[0].startswith("annotations/instances_train.json: annotation 1")
    assert code(checks, "data.unknown_class").values["classes"] == {"category 99": 1}
    assert code(checks, "data.outside").hint
    assert code(checks, "data.duplicate_annotation_id").status is Status.NOTE
    # what is skipped comes before what is only fixed
    assert [c.values["policy"] for c in checks] == sorted(
        (c.values["policy"] for c in checks), key=["skip", "fix", "keep"].index
    )


def test_a_tenth_left_out_is_a_problem(data: Path) -> None:
    def drop(share: float) -> Check:
        def spoil(content: dict) -> None:
            count = len(content["annotations"])
            for entry in content["annotations"][: round(share * count)]:
                entry["bbox"][2] = -3

        edit(data, "train", spoil)
        return skipped_check(parts(data))

    assert skipped_check(parts(data)).status is Status.OK
    few = drop(0.06)
    assert few.status is Status.WARNING
    assert few.exit_code == 0
    many = drop(0.5)
    assert many.status is Status.PROBLEM
    assert many.exit_code == 4
    assert "of the boxes of train" in many.text


def test_faults_of_a_held_out_part_are_measured_against_the_whole(data: Path) -> None:
    """Both parts have the report of all images; one box of twenty is not half of two images'."""

    def spoil(content: dict) -> None:
        content["annotations"][0]["bbox"][2] = 0

    edit(data, "train", spoil)
    whole = parts(data)["train"]
    train, val = whole.split(0.1)
    check = skipped_check({"train": train, "val": val})
    assert check.status is Status.WARNING
    assert check.values == {
        "train and val.images": {"left_out": 0, "kept": 12},
        "train and val.boxes": {"left_out": 1, "kept": whole.num_boxes},
    }
    (fault,) = [c for c in fault_checks({"train": train, "val": val}) if "empty" in c.code]
    assert fault.values["count"] == 1


def test_missing_images_are_counted(data: Path) -> None:
    (data / "images" / "001.png").unlink()
    found = skipped_check(parts(data))
    assert found.values["train.images"] == {"left_out": 1, "kept": 11}
    assert found.values["train.boxes"]["left_out"] == 3  # they went with their image


def test_classes(cfg: Config, data: Path) -> None:
    def forget_green(content: dict) -> None:
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 3]

    edit(data, "train", forget_green)
    section = examine_data(read_data(cfg, 0), cfg)
    rows = code(section, "data.classes").values["classes"]
    assert rows[1]["train_boxes"] == 0
    assert rows[1]["val_boxes"] > 0
    assert [row["category_id"] for row in rows] == [3, 7]
    missing = code(section, "data.class-missing-in-train")
    assert missing.status is Status.WARNING
    assert "`green`" in missing.text


def test_advice_is_judged_for_the_configuration(cfg: Config, data: Path) -> None:
    def crowd(content: dict) -> None:
        image = content["images"][0]["id"]
        content["annotations"] += [
            {"id": 1000 + i, "image_id": image, "category_id": 3, "bbox": [i, i, 9, 9]}
            for i in range(25)
        ]

    edit(data, "train", crowd)
    section = examine_data(read_data(cfg, 0), cfg)
    check = code(section, "data.queries")  # tiny.yml has 20
    assert check.status is Status.WARNING
    assert "DFINETransformer.num_queries=100" in check.hint
    assert check.text.endswith("more than 20 objects, at most 28")
    assert "dataset-analyze" in code(section, "data.advice").text
    # what other checks say is not said twice
    assert not [c for c in section.checks if c.code in ("data.batch", "data.no-validation")]


def test_nothing_to_validate_on_and_the_log_is_in_the_report(cfg: Config, data: Path) -> None:
    (data / "annotations" / "instances_val.json").unlink()
    section = examine_data(read_data(cfg, 0), cfg)
    assert "held out" in code(section, "data.said").text


def test_stop_faults_of_one_part_leave_the_other_readable(cfg: Config, data: Path) -> None:
    def twice(content: dict) -> None:
        content["images"][1]["id"] = content["images"][0]["id"]

    edit(data, "train", twice)
    seen = read_data(cfg, 0)
    assert seen.train is None
    assert list(seen.parts) == ["val"]
    section = examine_data(seen, cfg)
    stop = code(section, "data")
    assert stop.exit_code == 4
    assert "one image id for two files" in stop.text
    assert code(section, "data.splits").values["val"]["images"] == 6


def test_both_parts_stop(cfg: Config, data: Path) -> None:
    for split in ("train", "val"):
        edit(
            data,
            split,
            lambda content: content["images"].append(dict(content["images"][0], file_name="b.png")),
        )
    seen = read_data(cfg, 0)
    problems = [c for c in examine_data(seen, cfg).checks if c.status is Status.PROBLEM]
    assert [("train" in c.text, "val" in c.text) for c in problems] == [
        (True, False),
        (False, True),
    ]


def test_no_data_set_at_all(cfg: Config, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    seen = read_data(cfg.with_values({"data": str(empty)}), 0)
    (check,) = examine_data(seen, cfg).checks
    assert check.exit_code == 4
    assert "no data set recognised" in check.text


def test_data_of_the_loaders_sections(cfg: Config, data: Path) -> None:
    """The authors' way, with one file that is broken."""
    values: dict = {"data": None}
    for split in ("train", "val"):
        values[f"{split}_dataloader.dataset.img_folder"] = str(data / "images")
        file = data / f"annotations/instances_{split}.json"
        values[f"{split}_dataloader.dataset.ann_file"] = str(file)
    authors = cfg.with_values(values)
    assert read_data(authors, 0).val is not None
    (data / "annotations" / "instances_train.json").write_text("{")
    seen = read_data(authors, 0)
    assert list(seen.parts) == ["val"]
    assert "not readable as JSON" in code(examine_data(seen, authors), "data").text


def test_a_reader_that_fails_is_a_finding(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    from detrkit.engine.doctor import data

    monkeypatch.setattr(data, "open_data", fail)
    seen = read_data(cfg, 0)
    assert list(seen.parts) == ["train", "val"]  # each on its own
    check = code(examine_data(seen, cfg), "data")
    assert check.text == "the data cannot be read: ZeroDivisionError: division by zero"
    assert check.exit_code == 1
    assert "bug" in check.hint


def test_different_classes_are_reported_with_both_parts(cfg: Config, data: Path) -> None:
    file = data / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"red"', '"blue"'))
    section = examine_data(read_data(cfg, 0), cfg)
    assert code(section, "data").exit_code == 4
    assert set(code(section, "data.splits").values) == {"train", "val"}


# -- images ----------------------------------------------------------------------------------


def cut(path: Path) -> None:
    """Leaves the header of a picture and half of its pixels."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_images_that_cannot_be_decoded(data: Path) -> None:
    cut(data / "images" / "002.png")
    check, broken = decode_check(parts(data), cores=2, seconds=None)
    assert check.status is Status.WARNING
    assert broken == {"train": [1], "val": []}
    assert "002.png" in check.details[0]
    for number in range(1, 8):
        if number != 2:
            cut(data / "images" / f"{number:03d}.png")
    check, broken = decode_check(parts(data), cores=1, seconds=None)
    assert check.status is Status.PROBLEM
    assert check.exit_code == 4
    assert broken["train"] == list(range(7))


def test_decoding_ends_when_the_time_is_over(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_checks, "_failure", lambda *_: None)
    check, _ = decode_check(parts(data), cores=1, seconds=0.0)
    assert check.values["decoded"] == 8
    assert "8 of 18 images decoded, drawn at random" in check.text


def test_an_image_in_two_parts_by_path_and_by_content(data: Path) -> None:
    assert code(leak_checks(parts(data), 10), "data.leak.val").status is Status.OK

    def point_at_train(content: dict) -> None:
        content["images"][0]["file_name"] = "001.png"

    shutil.copy(data / "images" / "003.png", data / "images" / "014.png")
    edit(data, "val", point_at_train)
    check = code(leak_checks(parts(data), 10), "data.leak.val")
    assert check.status is Status.WARNING
    assert check.values["images"] == 2
    assert any("014.png = " in line and line.endswith("003.png") for line in check.details)
    cut_short = code(leak_checks(parts(data), -1), "data.leak.val")
    assert cut_short.values["complete"] is False
    assert cut_short.values["images"] == 1  # paths cost nothing


def test_equal_length_is_not_equal_content(tmp_path: Path) -> None:
    for split, seed in (("train", 1), ("val", 2)):
        folder = tmp_path / "images" / split
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "a.bmp")
        labels = tmp_path / "labels" / split
        labels.mkdir(parents=True)
        (labels / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [a]\ntrain: images/train\nval: images/val\n")
    assert code(leak_checks(parts(tmp_path), 10), "data.leak.val").status is Status.OK


def test_without_looking_at_pixels(cfg: Config, data: Path) -> None:
    codes = {c.code for c in examine_data(read_data(cfg, 0), cfg, seconds=0).checks}
    assert not codes & {"data.pixels", "data.leak.val"}


def test_nothing_was_read() -> None:
    assert examine_data(DataSeen(), None).checks == []


# -- real data sets --------------------------------------------------------------------------


def test_a_real_messy_export(cfg: Config, shared_data: Callable[[str], Path]) -> None:
    ships = cfg.with_values({"data": str(shared_data("ships_yolo_messy"))})
    section = examine_data(read_data(ships, 0), ships)
    unknown = code(section, "data.unknown_class")
    assert unknown.values["count"] == 96
    assert unknown.values["classes"]["class 2"] == 36
    assert code(section, "data.label_without_image").values["count"] == 34
    assert code(section, "data.image_without_labels").values["count"] == 12
    skipped = code(section, "data.skipped")
    assert skipped.status is Status.PROBLEM
    assert skipped.exit_code == 4


@pytest.mark.parametrize("name", ["bccd", "cards_yolo", "coco_cc"])
def test_real_data_sets_that_are_good(
    cfg: Config, shared_data: Callable[[str], Path], name: str
) -> None:
    real = cfg.with_values({"data": str(shared_data(name))})
    section = examine_data(read_data(real, 0), real)
    assert not [c for c in section.checks if c.status is Status.PROBLEM]
    assert code(section, "data.pixels").status is Status.OK
