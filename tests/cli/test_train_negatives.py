"""`train --negatives --eval-negatives` from the command line to the files of a run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit.engine.checkpoint import Checkpoint
from tests.cli.test_train import content, run
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_coco, write_config
from tests.engine.toy import equal

OA = ["oa_fppi", "oa_clean_rate", "oa_max_score", "oa_mean_max_score"]
TRAIN = ("train", "tiny.yml", "--data", "data", "--negatives", "negatives", "--epochs", "2")
#: Scores of a detector that has learned nothing are low.
LOW = ("--update", "oa_threshold=0.001", "oa_tolerance=1.0")


def noise(folder: Path, count: int, seed: int) -> Path:
    """Pictures without anything in them."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.integers(90, 130, (50, 70, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("negatives")
    write_coco(folder / "data", train=4, val=3)
    write_config(folder, REPOSITORY)
    noise(folder / "negatives", 3, 1)
    noise(folder / "held_out", 3, 2)
    assert run(folder, *TRAIN, "--output", "plain") == 0
    return folder


def test_counting_beside_the_training_changes_nothing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (*TRAIN, "--eval-negatives", "held_out", "--output", "watched", "--json", *LOW)
    assert run(place, *command) == 0
    shown = capsys.readouterr()
    assert "+ 3 images without targets from" in shown.err
    assert "7 training and 3 validation images" in shown.err
    assert "false detections per image" in shown.err
    result = json.loads(shown.out)
    assert Path(result["files"]["best_oa"]).name == "best_oa.pth"

    plain, watched = content(place / "plain"), content(place / "watched")
    for log in watched.pop("log"):
        assert [name for name in log if "/oa_" in name] == [f"val/{name}" for name in OA]
        assert 0 <= log["val/oa_clean_rate"] <= 1
        assert log["val/oa_fppi"] > 0
    plain.pop("log")
    assert equal(plain, watched)
    with (place / "watched" / "results.csv").open() as file:
        assert all(float(row["val/oa_fppi"]) > 0 for row in csv.DictReader(file))
    best = Checkpoint.load(place / "watched" / "best_oa.pth")
    assert best.config is not None
    assert best.class_map is not None
    assert set(OA) <= set(best.metrics)
    assert not (place / "watched" / "oa_candidates").exists()


def test_all_of_it_at_once_and_resumed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random negatives, a weight for background, a share, a cache; numbers of a lost epoch."""
    more = (
        *LOW,
        "DFINETransformer.random_negatives=5",
        "DFINECriterion.bg_loss_weight=1.5",
        "negatives_share=0.3",
        "checkpoint_freq=1",
    )
    command = (*TRAIN, "--eval-negatives", "held_out", "--cache", "ram", "--output", "all", *more)
    assert run(place, *command) == 0
    assert "+ 1 image without targets" in (said := capsys.readouterr().err)
    assert "(3 there, negatives_share 0.3)" in said
    whole = content(place / "all")
    assert any(name.startswith("train_neg/loss_vfl") for name in whole["log"][0])
    assert all(np.isfinite(row["train/loss"]) for row in whole["log"])

    shutil.copytree(place / "all", place / "again")
    shutil.copy(place / "again" / "epoch_0001.pth", place / "again" / "last.pth")
    assert run(place, "resume", "again") == 0
    again = content(place / "again")
    for row in whole["log"][:1] + again["log"][:1]:
        for name in [name for name in row if "/oa_" in name]:
            del row[name]  # the first epoch's were there before
    assert equal(whole, again)


def test_negatives_of_both_kinds_are_compared(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = noise(place / "copies", 1, 7)
    shutil.copy(place / "negatives" / "0.png", copy / "renamed.png")
    shutil.copy(place / "data" / "images" / "001.png", copy / "a_training_image.png")
    tiny: tuple[Any, ...] = ("train", "tiny.yml", "--data", "data", "--epochs", "1")
    command = (*tiny, "--negatives", "copies", "--eval-negatives", "negatives")
    assert run(place, *command, "--output", "compared") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "negatives: 1 of the images in" in said
    assert "a_training_image.png" in said
    assert "the same picture teaches both" in said
    assert "eval_negatives: 1 of 3 images are trained on as well, e.g." in said
    assert "renamed.png" in said


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--negatives", "nowhere"), 4, "negatives: there is no"),
        (("--eval-negatives", "nowhere"), 4, "eval_negatives: there is no"),
        (("--eval-negatives", "empty"), 4, "holds no images"),
        (("--negatives", "negatives", "--update", "negatives_share=2"), 2, "negatives_share must"),
        (("--eval-negatives", "held_out", "--update", "oa_threshold=0"), 3, "oa_threshold is a"),
        (("--eval-negatives", "held_out", "--update", "oa_tolerance=-1"), 3, "oa_tolerance must"),
        (("--update", "DFINETransformer.random_negatives=-1"), 3, "random_negatives: must not be"),
    ],
    ids=str,
)
def test_mistakes_are_named_before_anything_is_written(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    (place / "empty").mkdir(exist_ok=True)
    command = ("train", "tiny.yml", "--data", "data", "--output", "wrong", *arguments)
    assert run(place, *command) == code
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (place / "wrong").exists()


def test_the_authors_data_sections_take_negatives(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = [
        f"{loader}.dataset={{type: CocoDetection, img_folder: data/images, "
        f"ann_file: data/annotations/instances_{split}.json, transforms: "
        "{type: Compose, ops: [{type: Resize, size: [64, 64]}, "
        "{type: ConvertPILImage, dtype: float32, scale: true}, "
        "{type: ConvertBoxes, fmt: cxcywh, normalize: true}]}}"
        for loader, split in (("train_dataloader", "train"), ("val_dataloader", "val"))
    ]
    command = ("train", "tiny.yml", "--negatives", "negatives", "--epochs", "1", "--update")
    sections.append("data=null")
    assert run(place, *command, *sections, "--output", "sections") == 0
    assert "7 training and 3 validation images" in capsys.readouterr().err


def test_doctor_reads_them(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ("doctor", "tiny.yml", "--data", "data", "--update", "negatives=nowhere")
    assert run(place, *wrong) != 0
    shown = capsys.readouterr()
    assert "there is no nowhere" in " ".join((shown.out + shown.err).split())
