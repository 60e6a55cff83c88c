"""The one-batch test passes where all is wired right, and fails where it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detrkit.config import Config
from detrkit.data import open_splits
from detrkit.data.dataset import DetectionDataset
from detrkit.engine.data_sets import open_data
from detrkit.engine.derive import TrainFlags, load_with_flags
from detrkit.engine.doctor.overfit import (
    PASS_AP50,
    Overfit,
    _statistics_of,
    learnable_images,
    overfit,
    overfit_check,
)
from detrkit.engine.doctor.report import Status
from detrkit.engine.step_probe import StepProbe, training_boxes
from detrkit.errors import DataError
from detrkit.structures import Batch, Target
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_coco, write_config

CPU = torch.device("cpu")
RESULT = Overfit(
    steps=60, first_loss=30.0, half_loss=20.0, last_loss=12.0, ap50=1.0, found=9, boxes=9,
    images=4, size=(320, 320), seconds=61.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("overfit")
    write_coco(folder / "data", train=8, val=3)
    config = write_config(folder, REPOSITORY)
    return load_with_flags(config, TrainFlags(data=str(folder / "data")))


@pytest.fixture(scope="module")
def train(cfg: Config) -> DetectionDataset:
    return open_data(cfg, 0)[0]


def shuffled(batch: Batch, step: int) -> Batch:
    """Boxes and labels of a step that belong to nothing."""
    draw = torch.Generator().manual_seed(step)
    targets = [
        replace(
            target,
            boxes_cxcywh=torch.rand(target.boxes_cxcywh.shape, generator=draw) * 0.3 + 0.3,
            labels=torch.randint(0, 2, target.labels.shape, generator=draw),
        )
        for target in batch.targets
    ]
    return Batch(batch.images, targets)


def wrong_labels(batch: Batch, step: int) -> Batch:
    """The right boxes with classes drawn anew in each step."""
    draw = torch.Generator().manual_seed(step)
    targets = [
        replace(target, labels=torch.randint(0, 2, target.labels.shape, generator=draw))
        for target in batch.targets
    ]
    return Batch(batch.images, targets)


def test_a_healthy_model_learns_the_batch(
    cfg: Config, train: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[tuple[int, int]] = []
    result = overfit(cfg, train, CPU, steps=150, progress=lambda a, b: told.append((a, b)))
    assert result.passed, result
    assert result.ap50 >= PASS_AP50
    assert result.found >= 0.75 * result.boxes
    assert result.steps < 150  # it ends when it has passed
    assert told[-1] == (result.steps, 150)
    check = overfit_check(result)
    assert check.status is Status.OK
    assert check.text.startswith("learned by heart: 4 images at 64x64")
    assert not list(tmp_path.iterdir())  # nothing is written


@pytest.mark.parametrize("disturb", [shuffled, wrong_labels])
def test_targets_that_belong_to_nothing_fail(
    cfg: Config, train: DetectionDataset, disturb: object
) -> None:
    result = overfit(cfg, train, CPU, steps=30, disturb=disturb)  # type: ignore[arg-type]
    assert not result.passed
    check = overfit_check(result)
    assert check.status is Status.PROBLEM
    assert check.exit_code == 4
    assert "belong to the images" in check.hint


def test_a_frozen_model_fails(
    cfg: Config, train: DetectionDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the last bias may learn, as when parameter groups miss the rest."""
    start = StepProbe.__init__

    def freeze(self: StepProbe, *args: object, **options: object) -> None:
        start(self, *args, **options)  # type: ignore[arg-type]
        for group in self.trainer.optimizer.param_groups:
            group["initial_lr"] = 0.0

    monkeypatch.setattr(StepProbe, "__init__", freeze)
    result = overfit(cfg, train, CPU, steps=10)
    assert not result.passed
    assert result.ap50 < 0.5
    assert not result.falls


def test_a_loss_that_is_not_finite(cfg: Config, train: DetectionDataset) -> None:
    def spoil(batch: Batch, step: int) -> Batch:
        return Batch(batch.images * (float("nan") if step == 3 else 1.0), batch.targets)

    result = overfit(cfg, train, CPU, steps=10, disturb=spoil)
    assert result.diverged == "the loss is nan after 3 steps"
    check = overfit_check(result)
    assert check.exit_code == 7
    assert "diverged" in check.text


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, Status.OK),
        ({"ap50": 0.6}, Status.PROBLEM),
        ({"found": 6}, Status.PROBLEM),
        ({"last_loss": 25.0}, Status.PROBLEM),
        ({"diverged": "the loss is inf"}, Status.PROBLEM),
    ],
)
def test_the_verdict(changes: dict, status: Status) -> None:
    assert overfit_check(replace(RESULT, **changes)).status is status


def test_more_steps_are_only_advised_where_the_loss_falls() -> None:
    assert "--steps 240" in overfit_check(replace(RESULT, ap50=0.1)).hint
    assert "--steps" not in overfit_check(replace(RESULT, ap50=0.1, half_loss=12.0)).hint


# -- which images ----------------------------------------------------------------------------


def test_images_that_suit_come_first(train: DetectionDataset) -> None:
    chosen = learnable_images(train.index, (64, 64), 4)
    assert len(chosen) == 4
    assert (training_boxes(train.index)[chosen] > 0).all()
    assert chosen == learnable_images(train.index, (64, 64), 4)
    everything = learnable_images(train.index, (64, 64), 100)
    assert len(everything) == 7  # the last image has no boxes


def test_small_objects_and_crowded_images_are_avoided(tmp_path: Path) -> None:
    index = open_splits(write_coco(tmp_path / "data", train=8, val=1))["train"]
    boxes = index.boxes_xyxy.copy()
    for number in (0, 1):
        rows = index.boxes_of(number)
        boxes[rows, 2:] = boxes[rows, :2] + 2
    tiny = replace(index, boxes_xyxy=boxes)
    assert not {0, 1} & set(learnable_images(tiny, (64, 64), 4))
    assert {0, 1} <= set(learnable_images(tiny, (64, 64), 7))


def test_no_image_has_boxes(tmp_path: Path) -> None:
    index = open_splits(write_coco(tmp_path / "data", train=4, val=1))["train"]
    empty = replace(index, offsets=np.zeros_like(index.offsets), iscrowd=index.iscrowd[:0])
    with pytest.raises(DataError, match="no image has boxes"):
        learnable_images(empty, (64, 64), 4)


def test_batch_norms_know_the_batch_only_for_the_exam() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, images: torch.Tensor, targets: object = None) -> torch.Tensor:
            return self.norm(images)

    model = Net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images = torch.randn(4, 3, 8, 8) * 5 + 7
    with _statistics_of(model, Batch(images, [Target(torch.zeros(0, 4), torch.zeros(0))])):
        mean = model.norm.running_mean
        assert mean is not None
        assert torch.allclose(mean, images.mean((0, 2, 3)), atol=1e-4)
    assert model.norm.momentum == 0.1
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.slow
def test_quickstart_learns_a_batch() -> None:
    cfg = load_with_flags("quickstart", TrainFlags())
    result = overfit(cfg, open_data(cfg, 0)[0], CPU)
    assert result.passed, result
