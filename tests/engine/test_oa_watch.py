"""False detections counted beside the training: the numbers, and that nothing else changes."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detrkit.data.index import DatasetIndex
from detrkit.data.negatives import open_negatives
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.oa_candidates import CandidateFiles
from detrkit.engine.oa_watch import OverActivationWatch
from detrkit.engine.observers import CSVLog, JSONLog, Observer
from detrkit.engine.run_dir import RunDirectory
from detrkit.engine.trainer import Trainer
from detrkit.errors import Interrupted
from detrkit.structures import ClassMap, Detections, ImageSpec
from tests.engine import toy
from tests.engine.bright import picture
from tests.engine.test_trainer import Act, log_of, state_of
from tests.engine.toy import equal

CLASSES = ClassMap.from_names(["thing"])
SCORES = [0.30, 0.31, 0.312, 0.2]


class Answers:
    """One detection per image; its score is the toy network's answer. `hold` delays it."""

    def __init__(self, hold: threading.Event | None = None, broken: bool = False) -> None:
        self.hold, self.broken = hold, broken
        self.threads: set[tuple[str, int]] = set()

    def postprocess(self, outputs: Any, sizes: Any, *_: Any, **__: Any) -> list[Detections]:
        self.threads.add((threading.current_thread().name[:15], torch.get_num_threads()))
        if self.hold is not None:
            self.hold.wait(20)
        if self.broken:
            raise RuntimeError("out of luck\nand more")
        return [
            Detections(np.zeros((1, 4)), score[None].sigmoid().numpy(), np.zeros(1), CLASSES)
            for score in outputs["pred"]
        ]


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    folder = tmp_path / "negatives"
    folder.mkdir()
    for number in range(3):
        picture((16, 24), (0, 0, 8 * number, 8)).save(folder / f"{number}.png")
    return open_negatives(folder, CLASSES)


def trainer(folder: Path, index: DatasetIndex | None, answers: Any = None, **more: Any) -> Trainer:
    made = toy.trainer(folder, scores=SCORES, **more)
    if index is not None:
        made.over_activation = OverActivationWatch(
            index,
            CandidateFiles(RunDirectory(folder), 0.01),
            answers or Answers(),
            CLASSES,
            ImageSpec((8, 8)),
            device=torch.device("cpu"),
            threshold=0.5,
            epochs=4,
            observers=made.observers,
        )
    return made


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("two_threads")
def test_training_is_bit_for_bit_the_same(tmp_path: Path, index: DatasetIndex) -> None:
    answers = Answers()
    trainer(tmp_path / "plain", None).fit()
    trainer(tmp_path / "watched", index, answers).fit()
    assert equal(state_of(tmp_path / "plain"), state_of(tmp_path / "watched"))
    plain, watched = log_of(tmp_path / "plain"), log_of(tmp_path / "watched")
    assert [{k: v for k, v in row.items() if "/oa_" not in k} for row in watched] == plain
    assert answers.threads == {("over-activation", 1)}
    assert torch.get_num_threads() == 2
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [2]  # nor did the default of threads to come


def test_numbers_are_those_of_the_epochs_own_weights(tmp_path: Path, index: DatasetIndex) -> None:
    run = trainer(tmp_path / "run", index)
    run.keeper.every = 1
    run.fit()
    files = RunDirectory(tmp_path / "run")
    images = [picture((16, 24), (0, 0, 8 * number, 8)) for number in range(3)]
    for epoch, row in enumerate(rows(tmp_path / "run")):
        model = toy.Net()
        model.load_state_dict(Checkpoint.load(files.numbered(epoch + 1)).weights)
        scores = []
        with torch.no_grad():
            for image in images:
                pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
                batch = ImageSpec((8, 8)).prepare(pixels)
                scores.append(float(model.eval()(batch.reshape(1, 3, 8, 8))["pred"].sigmoid()))
        assert row["val/oa_max_score"] == pytest.approx(max(scores), rel=1e-5)
        assert row["val/oa_mean_max_score"] == pytest.approx(np.mean(scores), rel=1e-5)
        assert row["val/oa_fppi"] == sum(s >= 0.5 for s in scores) / 3
        assert row["val/oa_clean_rate"] == sum(s < 0.5 for s in scores) / 3
    table = (tmp_path / "run" / "results.csv").read_text().splitlines()
    assert "val/oa_fppi" in table[0]
    assert all(line.count(",") == table[0].count(",") for line in table)
    good = [row for row in rows(tmp_path / "run") if row["val/AP"] >= 0.302]
    best = min(good, key=lambda row: (row["val/oa_fppi"], row["val/oa_max_score"]))
    kept = Checkpoint.load(files.best_oa)
    assert kept.last_epoch == best["epoch"]
    assert kept.config == {"epochs": 4}
    assert kept.metrics["AP"] == best["val/AP"]
    assert kept.metrics["oa_fppi"] == best["val/oa_fppi"]
    assert kept.optimizer is None
    assert not files.oa_candidates.exists()


@pytest.mark.parametrize("step", [2, 7, 12, 19])
def test_interrupted_and_resumed_is_the_same_run(
    tmp_path: Path, index: DatasetIndex, step: int
) -> None:
    """Also where the numbers of an epoch were still to come."""
    trainer(tmp_path / "whole", index).fit()
    never = threading.Event()
    hit = Act(step, lambda: (os.kill(os.getpid(), signal.SIGINT), never.set()))
    slow = Answers(hold=never) if step < 10 else Answers()
    with pytest.raises(Interrupted):
        trainer(tmp_path / "parts", index, slow, observers=[hit]).fit()
    kept = Checkpoint.load(tmp_path / "parts" / "last.pth")
    epoch = kept.position["epoch"]
    rest = trainer(tmp_path / "parts", index, first_epoch=epoch)
    rest.resume(kept)
    rest.evaluator.calls = epoch  # type: ignore[union-attr]
    rest.fit()
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    best = [Checkpoint.load(tmp_path / run / "best_oa.pth") for run in ("whole", "parts")]
    assert best[0].last_epoch == best[1].last_epoch
    assert equal(best[0].weights, best[1].weights)


def test_a_broken_image_is_left_out_and_named_once(
    tmp_path: Path, index: DatasetIndex, caplog: pytest.LogCaptureFixture
) -> None:
    Path(index.paths[1]).write_bytes(b"gone")
    with caplog.at_level(logging.WARNING, logger="detrkit"):
        trainer(tmp_path / "run", index).fit()
    assert caplog.text.count("1.png") == 1
    assert all(row["val/oa_clean_rate"] in (0, 0.5, 1) for row in rows(tmp_path / "run"))


def test_what_fails_beside_the_training_does_not_end_it(
    tmp_path: Path, index: DatasetIndex, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(tmp_path / "plain", None).fit()
    for name, answers in (("raises", Answers(broken=True)), ("unreadable", Answers())):
        if name == "unreadable":
            for path in index.paths:
                Path(path).unlink()
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="detrkit"):
            trainer(tmp_path / name, index, answers).fit()
        assert equal(state_of(tmp_path / "plain"), state_of(tmp_path / name))
        assert log_of(tmp_path / "plain") == log_of(tmp_path / name)
        wanted = "RuntimeError: out of luck" if name == "raises" else "none of the 3 images"
        assert f"epoch 4: false detections were not counted: {wanted}" in caplog.text
        assert "the run goes on" in caplog.text
        assert not (tmp_path / name / "best_oa.pth").exists()
        assert not (tmp_path / name / "oa_candidates").exists()


def test_weights_that_cannot_be_kept_do_not_end_it(
    tmp_path: Path, index: DatasetIndex, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "oa_candidates").write_text("in the way")
    trainer(tmp_path / "run", index).fit()
    assert "epoch 1: false detections were not counted: cannot write" in caplog.text
    assert len(rows(tmp_path / "run")) == 4


def test_no_memory_for_the_copy(
    tmp_path: Path,
    index: DatasetIndex,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Tried again after the next epoch, with what waits until then."""
    run = trainer(tmp_path / "run", index)
    watch, tries = run.over_activation, []
    assert watch is not None
    start = watch._start

    def fails_once(model: Any) -> Any:
        tries.append(model)
        if len(tries) == 1:
            raise torch.OutOfMemoryError("no memory")
        return start(model)

    monkeypatch.setattr(watch, "_start", fails_once)
    run.fit()
    assert "epoch 1: false detections were not counted: OutOfMemoryError" in caplog.text
    assert all("val/oa_fppi" in row for row in rows(tmp_path / "run"))


def test_ctrl_c_while_the_last_numbers_are_awaited(
    tmp_path: Path, index: DatasetIndex, caplog: pytest.LogCaptureFixture
) -> None:
    hold = threading.Event()
    run = trainer(tmp_path / "run", index, Answers(hold), epochs=1, stop=1)

    def interrupt() -> None:
        run.guard.requested = True
        threading.Timer(0.5, hold.set).start()

    finish = run.over_activation.finish  # type: ignore[union-attr]
    run.over_activation.finish = lambda: (interrupt(), finish())  # type: ignore
    run.fit()
    assert "stopped before the false detections of epoch 1 were counted" in caplog.text
    assert (tmp_path / "run" / "last.pth").is_file()


def test_late_numbers_of_an_epoch_that_is_not_there(tmp_path: Path) -> None:
    """A log that was cut off by a full disk."""
    from detrkit.engine.observers import LateReport

    report = LateReport(3, 4, 20, {"oa_fppi": 0.5, "oa_clean_rate": 0.5, "oa_max_score": 0.9})
    for log in (JSONLog(tmp_path / "a"), CSVLog(tmp_path / "b"), Observer()):
        log.late(report)
    assert report.describe() == (
        "epoch 4: 0.5 false detections per image, 50% of the images without, highest score 0.90"
    )
