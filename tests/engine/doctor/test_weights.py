"""What would be loaded: by names and shapes, without a model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from detrkit.config import Config
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.derive import TrainFlags, load_with_flags
from detrkit.engine.doctor.report import Check, Status
from detrkit.engine.doctor.weights import examine_weights
from detrkit.engine.parts import build_model
from detrkit.engine.weights import load_weights, read_checkpoint
from detrkit.structures import ClassMap
from tests.conftest import REPOSITORY
from tests.engine.bright import CLASSES, small_detector
from tests.engine.tiny_data import write_config

MINE = ClassMap.from_names(["dog", "cat", "horse"])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A D-FINE-N of cat, 猫 and dog, for 64 x 96 pixels."""
    return small_detector(tmp_path_factory.mktemp("weights") / "best.pth")


def config(name: str, *update: str, **flags: object) -> Config:
    values = {"tune": None, **flags}
    return load_with_flags(name, TrainFlags(**values), update=update)  # type: ignore[arg-type]


SAME = ("DFINETransformer.num_queries=20", "num_top_queries=20")


def checks(cfg: Config, classes: ClassMap | None) -> dict[str, Check]:
    section = examine_weights(cfg, classes)
    return {check.code: check for check in section.checks} if section else {}


def test_the_report_is_that_of_loading(weights: Path) -> None:
    cfg = config("dfine_n_coco", *SAME, tune=str(weights)).with_values({"num_classes": 3})
    found = checks(cfg, MINE)
    model = build_model(cfg)
    report = load_weights(
        model, read_checkpoint(weights).weights, class_map=MINE, source_classes=CLASSES,
        source=str(weights),
    )  # fmt: skip
    assert found["weights.tensors"].values == report.to_dict()
    assert found["weights.tensors"].status is Status.OK
    heads = found["weights.classes"]
    assert heads.values["matched"] == {"dog": "dog", "cat": "cat"}
    assert heads.values["new"] == ["horse"]
    assert "from random: horse" in heads.text
    assert found["weights.size"].values == {"theirs": [64, 96], "ours": [640, 640]}


def test_nothing_is_drawn_and_the_file_stays(weights: Path) -> None:
    before = hashlib.sha256(weights.read_bytes()).hexdigest()
    state = torch.get_rng_state()
    checks(config("dfine_n_coco", *SAME, tune=str(weights)), MINE)
    assert torch.equal(torch.get_rng_state(), state)
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == before


def test_weights_of_another_model(weights: Path) -> None:
    found = checks(config("rtdetrv2_r18vd_120e_coco", tune=str(weights)), MINE)
    check = found["weights.tensors"]
    assert check.status is Status.PROBLEM
    assert check.exit_code == 5
    assert "another model or size" in check.text


def test_some_tensors_of_another_shape(weights: Path) -> None:
    found = checks(
        config("dfine_n_coco", *SAME, "HybridEncoder.expansion=0.5", tune=str(weights)), MINE
    )
    check = found["weights.tensors"]
    assert check.status is Status.WARNING
    assert "keep their random values" in check.text
    assert check.hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"PK\x03\x04 nothing")
    for name in (str(damaged), str(tmp_path / "absent.pth")):
        found = checks(config("dfine_n_coco", tune=name), MINE)
        assert found["weights"].exit_code == 5


def test_classes_without_a_match(weights: Path) -> None:
    found = checks(
        config("dfine_n_coco", *SAME, tune=str(weights)), ClassMap.from_names(["a", "b"])
    )
    assert found["weights.classes"].status is Status.NOTE
    assert "none of 2 classes" in found["weights.classes"].text


def test_without_data_the_heads_are_compared_by_their_rows(weights: Path) -> None:
    cfg = config("dfine_n_coco", *SAME, tune=str(weights)).with_values({"num_classes": 3})
    found = checks(cfg, None)
    assert found["weights.tensors"].values["loaded"] > 300
    assert "weights.classes" not in found


def test_a_class_map_that_is_wrong(weights: Path, tmp_path: Path) -> None:
    table = tmp_path / "map.yml"
    table.write_text("dog: cat\nzebra: dog\n", encoding="utf-8")
    cfg = config("dfine_n_coco", *SAME, tune=str(weights), class_map=str(table))
    assert checks(cfg, MINE)["weights"].exit_code == 5
    table.write_text("horse: dog\n", encoding="utf-8")
    assert checks(cfg, MINE)["weights.classes"].values["matched"]["horse"] == "dog"


def test_a_pretrained_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    cfg = config("dfine_n_coco")
    check = checks(cfg, None)["weights.backbone"]
    assert check.status is Status.NOTE
    assert check.values["url"].startswith("https://")
    place = Path(str(check.values["place"]))
    assert tmp_path in place.parents
    place.parent.mkdir(parents=True)
    Checkpoint(model={}).save(place)
    assert checks(cfg, None)["weights.backbone"].status is Status.OK
    missing = checks(config("dfine_n_coco", "HGNetv2.pretrained=nowhere.pth"), None)["weights"]
    assert missing.exit_code == 5
    assert "no pretrained weights at nowhere.pth" in missing.text


def test_random_by_intent(tmp_path: Path) -> None:
    assert examine_weights(config(str(write_config(tmp_path, REPOSITORY))), MINE) is None
