"""Trackers: what reaches them, and that they neither stop nor slow a run."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detrkit.engine.observers import (
    JSONLog,
    RunFacts,
    Tracker,
    Tracking,
    tensorboard,
    tracking,
)
from detrkit.engine.observers.mlflow import MLflow
from detrkit.engine.observers.tensorboard import TensorBoard
from detrkit.engine.observers.tracker import Outcome
from detrkit.engine.observers.wandb import WandB
from detrkit.errors import Interrupted, MissingExtraError
from tests.engine.fake_trackers import FakeMLflow, FakeWandB, install
from tests.engine.test_observers import epoch, no_space, step


class Listener(Tracker):
    """Keeps the calls."""

    name = "listener"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def begin(self, run: RunFacts) -> Mapping[str, str]:
        self.calls.append(("begin", dict(run.kept)))
        return {"id": run.kept.get("id", "first")}

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.calls.append(("scalars", dict(values), step))

    def picture(self, name: str, path: Path, step: int) -> None:
        self.calls.append(("picture", name, step))

    def end(self, outcome: Outcome, best: Mapping[str, float], files: Sequence[Path]) -> None:
        self.calls.append(("end", outcome, dict(best), [path.name for path in files]))


def facts(folder: Path, **more: Any) -> RunFacts:
    (folder / "config.yml").write_text("epochs: 3\n")
    return RunFacts(
        folder,
        "run-1",
        config={"optimizer": {"lr": 1e-4, "params": [{"lr": 1e-5}]}, "scales": [1, 2]},
        environment={"torch": "2.6"},
        classes=("red", "green"),
        files=[folder / "config.yml"],
        **more,
    )


def track(folder: Path, *trackers: Tracker, **more: Any) -> Tracking:
    return Tracking(
        trackers,
        facts(folder, **more),
        state=folder / "loggers.json",
        table=folder / "log.jsonl",
        pictures=folder / "batches",
        final=(folder / "curves.png", folder / "results.csv", folder / "absent.csv"),
    )


def run(folder: Path, *trackers: Tracker, error: BaseException | None = None) -> Tracking:
    """Two epochs with a picture each."""
    watching = track(folder, *trackers)
    log = JSONLog(folder / "log.jsonl")
    for number in range(2):
        for batch in range(11):
            watching.step(step(batch, step=number * 11 + batch, lrs={"backbone": 1e-5}))
        watching.step(step(0, phase="val", losses={}))
        (folder / "batches").mkdir(exist_ok=True)
        picture(folder / "batches" / f"epoch_{number}_batch_0.jpg")
        report = epoch(number, is_best=number == 0, step=11 * (number + 1))
        log.epoch(report)
        watching.epoch(report)
    watching.close()
    picture(folder / "curves.png")
    (folder / "results.csv").write_text("epoch\n")
    watching.end(error)
    return watching


def picture(path: Path) -> None:
    Image.new("RGB", (2000, 10), "red").save(path)


def test_what_a_tracker_is_told(tmp_path: Path) -> None:
    tracker = Listener()
    run(tmp_path, tracker)
    kinds = [call[0] for call in tracker.calls]
    assert kinds == ["begin", *["scalars"] * 3, "picture", *["scalars"] * 2, "picture",
                     "picture", "end"]  # fmt: skip
    points = [call for call in tracker.calls if call[0] == "scalars"]
    assert [call[2] for call in points] == [0, 10, 11, 20, 22]
    assert points[0][1] == pytest.approx({
        "train/loss": 3.0, "train/loss_vfl": 2.0, "train_aux/loss_vfl_0": 1.0,
        "train/grad_norm": 0.5, "lr": 1e-4, "lr/backbone": 1e-5,
    })  # fmt: skip
    assert points[2][1] == {
        "epoch": 0, "val/AP": 0.25, "val/AP50": 0.5, "resources/train_seconds": 60.0,
        "resources/eval_seconds": 1.0, "resources/images_per_second": 10.0,
        "resources/wait_seconds": 12.0, "resources/data_wait": 0.2, "train/skipped_steps": 0,
    }  # fmt: skip
    assert [c[1] for c in tracker.calls if c[0] == "picture"] == [
        "batches/batch_0", "batches/batch_0", "curves"
    ]  # fmt: skip
    best = {"best/epoch": 1.0, "best/AP": 0.25, "best/AP50": 0.5}
    assert tracker.calls[-1] == ("end", "finished", best, ["results.csv"])


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(Interrupted("x"), "interrupted"), (KeyboardInterrupt(), "interrupted"),
     (ValueError(), "failed"), (None, "finished")],
)  # fmt: skip
def test_how_it_ended(tmp_path: Path, error: BaseException | None, outcome: str) -> None:
    tracker = Listener()
    run(tmp_path, tracker, error=error)
    assert tracker.calls[-1][1] == outcome


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    first, again = Listener(), Listener()
    run(tmp_path, first)
    track(tmp_path, again).end(None)
    assert first.calls[0] == ("begin", {})
    assert again.calls[0] == ("begin", {"id": "first"})
    # pictures of before are not handed on again
    assert [c[1] for c in again.calls if c[0] == "picture"] == ["curves"]


@pytest.mark.parametrize("text", ["{", "[1]", '{"listener": 3}', "\x00"])
def test_ids_that_cannot_be_read_mean_a_new_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "loggers.json").write_text(text)
    tracker = Listener()
    track(tmp_path, tracker).end(None)
    assert tracker.calls[0] == ("begin", {})


class Broken(Listener):
    """Fails at one of its methods."""

    name = "broken"

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where_it_fails = where

    def __getattribute__(self, name: str) -> Any:
        if name in ("begin", "scalars", "picture", "end") and name == self.where_it_fails:
            return self._fail
        return super().__getattribute__(name)

    def _fail(self, *_: Any) -> None:
        self.calls.append(("failed",))
        raise ConnectionError("the line is dead\nsecond line")


@pytest.mark.parametrize("where", ["begin", "scalars", "picture", "end"])
def test_a_failure_is_one_warning_and_the_others_go_on(
    tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken, fine = Broken(where), Listener()
    run(tmp_path, broken, fine)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warnings == ["broken is off from here on: ConnectionError: the line is dead"]
    assert broken.calls.count(("failed",)) == 1
    assert fine.calls[-1][0] == "end"


def test_a_full_disk_is_a_failure_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.fsync", no_space)
    tracker = Listener()
    track(tmp_path, tracker).end(None)
    assert "listener is off from here on: cannot write" in caplog.text


class Hanging(Listener):
    """Waits for ever, as for a server that takes connections and does not answer."""

    name = "hanging"

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.let_go.wait(60)


def test_a_tracker_that_hangs_does_not_slow_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "END", 0.2)
    monkeypatch.setattr(tracking, "_WAITING", 4)
    hanging, fine = Hanging(), Listener()
    started = time.monotonic()
    run(tmp_path, hanging, fine)
    assert time.monotonic() - started < 30
    assert caplog.text.count("hanging is too slow for this run: points are left out") == 1
    assert caplog.text.count("hanging did not take everything") == 1
    hanging.let_go.set()


def test_a_slow_tracker_hears_of_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_WAITING", 2)

    class Slow(Listener):
        def scalars(self, values: Mapping[str, float], step: int) -> None:
            time.sleep(0.05)

    slow = Slow()
    run(tmp_path, slow)
    assert slow.calls[-1][:2] == ("end", "finished")


def test_a_start_that_hangs_is_waited_for_only_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "START", 0.1)
    monkeypatch.setattr(tracking, "END", 0.1)
    let_go = threading.Event()

    class Slow(Listener):
        def begin(self, run: RunFacts) -> Mapping[str, str]:
            let_go.wait(60)
            return {}

    started = time.monotonic()
    track(tmp_path, Slow()).end(None)
    assert time.monotonic() - started < 30
    let_go.set()


# -- TensorBoard ------------------------------------------------------------------------------


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_can_be_read_back(tmp_path: Path) -> None:
    run(tmp_path, TensorBoard())
    found = events(tmp_path)
    assert [e.step for e in found.Scalars("train/loss")] == [0, 10, 20]
    assert [e.step for e in found.Scalars("val/AP")] == [11, 22]
    assert found.Scalars("val/AP")[0].value == 0.25
    assert {"train/loss_vfl", "train_aux/loss_vfl_0", "lr/backbone"} <= set(found.Tags()["scalars"])
    assert set(found.Tags()["images"]) == {"batches/batch_0", "curves"}
    assert [e.step for e in found.Images("batches/batch_0")] == [11, 22]
    for name, kind in (("curves", "PNG"), ("batches/batch_0", "JPEG")):
        shown = found.Images(name)[0]
        assert (shown.width, shown.height) == (1280, 6)
        with Image.open(io.BytesIO(shown.encoded_image_string)) as image:
            assert (image.format, image.size) == (kind, (1280, 6))


def test_small_pictures_are_in_tensorboard_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorboard, "_LARGEST", 2000)
    run(tmp_path, TensorBoard())
    (shown,) = events(tmp_path).Images("curves")
    assert shown.encoded_image_string == (tmp_path / "curves.png").read_bytes()


def test_tensorboard_hides_what_will_be_done_again(tmp_path: Path) -> None:
    run(tmp_path, TensorBoard())
    again = track(tmp_path, TensorBoard(), first_step=11)
    again.step(step(0, step=20, losses={"loss_vfl": step(0).losses["loss_vfl_aux_0"]}))
    again.end(None)
    points = events(tmp_path).Scalars("train/loss")
    assert [(e.step, e.value) for e in points] == [(0, 3.0), (10, 3.0), (20, 1.0)]


def test_tensorboard_elsewhere(tmp_path: Path) -> None:
    run(tmp_path, TensorBoard(tmp_path / "summary" / "run-1"))
    assert len(events(tmp_path / "summary" / "run-1").Scalars("val/AP")) == 2
    assert not list(tmp_path.glob("events*"))


# -- Weights & Biases ----------------------------------------------------------------------------


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    return install(monkeypatch, FakeWandB())


def test_wandb(tmp_path: Path, wandb: FakeWandB) -> None:
    watching = run(tmp_path, WandB())
    ((number, kept),) = wandb.runs.items()
    assert wandb.modes == [None]
    assert kept.options["project"] == "detrkit"
    assert kept.options["name"] == "run-1"
    assert kept.options["dir"] == str(tmp_path)
    assert kept.options["config"]["classes"] == ["red", "green"]
    assert kept.options["config"]["environment"] == {"torch": "2.6"}
    assert kept.options["config"]["optimizer"]["lr"] == 1e-4
    assert kept.metrics["val/*"] == "epoch"
    assert kept.logged[0]["train/loss"] == 3.0
    assert kept.logged[0]["step"] == 0
    assert {"batches/batch_0": ("image", "epoch_0_batch_0.jpg"), "step": 11} in kept.logged
    assert kept.summary == {"best/epoch": 1.0, "best/AP": 0.25, "best/AP50": 0.5}
    assert kept.saved == ["config.yml", "results.csv"]
    assert kept.exit_code == 0
    assert watching.links == {"wandb": f"https://wandb.example/{number}"}
    run(tmp_path, WandB(), error=Interrupted("x"))
    assert list(wandb.runs) == [number]  # the same again
    assert wandb.runs[number].exit_code == 130


def test_wandb_without_a_login_never_asks(
    tmp_path: Path,
    wandb: FakeWandB,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    watching = run(tmp_path, WandB())
    assert wandb.modes == ["offline"]
    assert caplog.text.count("wandb sync") == 1
    assert watching.links == {}
    machine = "machine api.wandb.ai\n  login user\n  password secret\n"
    (tmp_path / "netrc").write_text(machine)
    (tmp_path / "netrc").chmod(0o600)
    run(tmp_path, WandB())
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    run(tmp_path, WandB())
    monkeypatch.setenv("WANDB_MODE", "online")  # the user decides
    run(tmp_path, WandB())
    assert wandb.modes == ["offline", None, "offline", None]


def test_wandb_without_a_network_keeps_the_run(
    tmp_path: Path, wandb: FakeWandB, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.offline_only = True
    run(tmp_path, WandB())
    assert wandb.modes == [None, "offline"]
    assert "W&B cannot be reached (ConnectionError)" in caplog.text
    ((number, kept),) = wandb.runs.items()
    assert kept.exit_code == 0
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"wandb": {"id": number}}


# -- MLflow --------------------------------------------------------------------------------------


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    return install(monkeypatch, FakeMLflow())


def test_mlflow(tmp_path: Path, mlflow: FakeMLflow) -> None:
    run(tmp_path, MLflow(), error=Interrupted("x"))
    kept = mlflow.runs["run0"]
    assert mlflow.experiments == {"detrkit": "1"}
    assert kept.name == "run-1"
    assert kept.status == "KILLED"
    assert kept.params == {
        "optimizer.lr": "0.0001", "optimizer.params.0.lr": "1e-05", "scales": "[1, 2]",
        "environment.torch": "2.6", "classes": "['red', 'green']",
    }  # fmt: skip
    assert ("train/loss", 3.0, 0) in kept.metrics
    assert ("val/AP", 0.25, 11) in kept.metrics
    assert ("best/AP", 0.25, 0) in kept.metrics
    assert kept.artifacts == [
        "config.yml", "pictures/batches/epoch_0_batch_0.jpg",
        "pictures/batches/epoch_1_batch_0.jpg", "pictures/curves.png", "results.csv",
    ]  # fmt: skip
    mlflow.uri = "sqlite:////another/folder/mlflow.db"
    run(tmp_path, MLflow())
    assert list(mlflow.runs) == ["run0"]  # the same again, where it was
    assert mlflow.addresses == ["sqlite:////somewhere/mlflow.db"] * 2
    assert kept.status == "FINISHED"


def test_mlflow_keeps_no_password(tmp_path: Path, mlflow: FakeMLflow) -> None:
    mlflow.uri = "https://user:secret@mlflow.example/x"
    watching = run(tmp_path, MLflow())
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"mlflow": {"run_id": "run0"}}
    assert watching.links == {"mlflow": "run run0 in https://mlflow.example/x"}


@pytest.mark.parametrize(("name", "tracker"), [("wandb", WandB), ("mlflow", MLflow)])
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, tracker: type[Tracker]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingExtraError, match=name) as error:
        tracker()
    assert error.value.hint == "pip install 'detrkit[loggers]'"


# -- the real packages ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what other packages deprecate is theirs to mend
def test_the_real_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(tmp_path, WandB())
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    number = json.loads((tmp_path / "loggers.json").read_text())["wandb"]["id"]
    assert folder.name.endswith(number)
    (data,) = folder.glob("*.wandb")
    content = data.read_bytes()
    for word in (b"val/AP50", b"train_aux/loss_vfl_0", b"best/AP", b"media/images/batches"):
        assert word in content
    assert (folder / "files" / "config.yml").exists()
    run(tmp_path, WandB())
    assert all(path.name.endswith(number) for path in (tmp_path / "wandb").glob("offline-run-*"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what other packages deprecate is theirs to mend
def test_the_real_mlflow_with_its_own_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setattr(tracking, "START", 120)
    monkeypatch.setattr(tracking, "END", 120)
    run(tmp_path, MLflow(), error=Interrupted("x"))
    run(tmp_path, MLflow())
    client = MlflowClient(real.get_tracking_uri())
    number = json.loads((tmp_path / "loggers.json").read_text())["mlflow"]["run_id"]
    kept = client.get_run(number)
    assert kept.info.status == "FINISHED"
    assert kept.data.params["optimizer.lr"] == "0.0001"
    assert kept.data.metrics["best/AP50"] == 0.5
    assert [m.step for m in client.get_metric_history(number, "train/loss")] == [0, 10, 20] * 2
    assert {a.path for a in client.list_artifacts(number)} == {
        "config.yml", "pictures", "results.csv"
    }  # fmt: skip
    experiment = client.get_experiment_by_name("detrkit")
    assert len(client.search_runs([experiment.experiment_id])) == 1
