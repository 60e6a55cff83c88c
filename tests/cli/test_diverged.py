"""Plugins whose numbers are not finite, through the command line in a process of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from detrkit.engine.checkpoint import Checkpoint
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_coco, write_config
from tests.forked import detrkit

#: A criterion and a backbone layer of the user's.
PLUGIN = """
import torch

from detrkit.losses.criteria import DFINECriterion
from detrkit.models.backbones.hgnetv2 import HGNetv2
from detrkit.registry import MODULES


@MODULES.register(inject=("matcher",), share=("num_classes",))
class FragileCriterion(DFINECriterion):
    calls = 0

    def forward(self, outputs, targets, epoch=0, **more):
        losses = super().forward(outputs, targets, epoch, **more)
        self.calls += 1
        return {**losses, "loss_own": outputs["pred_boxes"].sum() * self.factor()}

    def factor(self):
        return float("nan") if self.calls > 4 else 1e-6


class Cracked(torch.nn.Module):
    def __init__(self, first, last):
        super().__init__()
        self.first, self.last, self.calls = first, last, 0

    def forward(self, x):
        self.calls += self.training
        return x / 0 if self.first <= self.calls <= self.last else x


@MODULES.register()
class FragileHGNet(HGNetv2):
    def __init__(self, first: int, last: int):
        super().__init__("Atto", return_idx=[1, 2], use_lab=True, pretrained=False)
        self.crack = Cracked(first, last)

    def forward(self, images):
        return super().forward(self.crack(images))
"""

CRITERION = """
criterion: FragileCriterion
FragileCriterion:
  weight_dict: {loss_vfl: 1, loss_bbox: 5, loss_giou: 2, loss_fgl: 0.15, loss_ddf: 1.5}
  losses: [vfl, boxes, local]
  matcher: {type: HungarianMatcher, weight_dict: {cost_class: 2, cost_bbox: 5, cost_giou: 2}}
"""


DATA = ("--data", "data", "--output", "run")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_coco(tmp_path / "data", train=6, val=2)
    file = write_config(tmp_path, REPOSITORY)
    (tmp_path / "fragile.py").write_text(PLUGIN)
    text = file.read_text().replace("restart_from_best: true", "restart_from_best: false")
    file.write_text(text + "plugins: [./fragile.py]\n")
    return tmp_path


def train(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*detrkit(), "train", "tiny.yml", *DATA, *arguments],
        cwd=place,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_a_criterion_that_breaks_for_good_ends_the_run_with_7_and_a_folder(place: Path) -> None:
    with (place / "tiny.yml").open("a") as file:
        file.write(CRITERION)
    done = train(place, "-u", "amp=off", "max_skips=2", "max_roll_backs=1")
    assert done.returncode == 7, done.stderr
    assert "Traceback" not in done.stderr
    words = " ".join(done.stderr.split())
    assert "2 steps in a row dropped: back to the last good state" in words
    assert "learning rates x 0.5" in words
    assert "error: the loss is not finite at step 7: loss_own = nan" in words
    assert "2 steps in a row dropped after going back 1 time; see" in words
    folder = place / "run" / "diverged" / "step_7"
    assert "step_7" in words
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert (report["epoch"], report["batch"], report["roll_backs"]) == (2, 1, 1)
    (process,) = report["processes"]
    assert process["pictures"] == ["batch.png"]
    with Image.open(folder / "batch.png") as picture:
        assert min(picture.size) >= 320
    for image in process["images"]:
        assert Path(image["file"]).is_file()
        assert f"{image['id']:03d}.png" in image["file"]
    assert process["losses"]["step"]["loss_own"] == "nan"
    assert isinstance(process["losses"]["step"]["loss_vfl"], float)
    assert process["forward"] is None  # the model is innocent
    assert process["backward"] is not None
    bad = {name: group["not_finite"] for name, group in process["groups"].items()}
    assert len(bad) > 1
    assert any(bad.values())
    good = [Checkpoint.load(Path(place / name)) for name in report["weights"]]
    for checkpoint in good:
        assert all(value.float().isfinite().all() for value in checkpoint.weights.values())


def crack(place: Path, first: int, last: int) -> None:
    with (place / "tiny.yml").open("a") as file:
        file.write("DFINE: {backbone: FragileHGNet}\n")
        file.write(f"FragileHGNet: {{first: {first}, last: {last}}}\n")


@pytest.mark.slow
def test_a_layer_that_breaks_once_costs_one_step(place: Path) -> None:
    crack(place, 3, 3)
    done = train(place, "--epochs", "1")
    assert done.returncode == 0, done.stderr
    assert "the step is dropped" in done.stderr
    assert "1 step skipped" in done.stderr
    rows = [json.loads(line) for line in (place / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["train/skipped_steps"] for row in rows] == [1]
    assert not (place / "run" / "diverged").exists()
    last = Checkpoint.load(place / "run" / "last.pth")
    assert all(value.float().isfinite().all() for value in last.weights.values())


def test_stop_at_once_names_the_layer(place: Path) -> None:
    crack(place, 2, 99)
    done = train(place, "-u", "on_non_finite=stop")
    assert done.returncode == 7, done.stderr
    report = json.loads((place / "run" / "diverged" / "step_1" / "report.json").read_text())
    (process,) = report["processes"]
    found = process["forward"]
    assert (found["module"], found["kind"]) == ("backbone.crack", "Cracked")
    assert found["largest_input"] == pytest.approx(1.0, abs=0.5)
