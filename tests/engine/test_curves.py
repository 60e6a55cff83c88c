"""The picture of a run's curves, judged by what matplotlib was asked to draw, and by pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from detrkit.engine import curves
from detrkit.engine.curves import RunCurves, draw_curves
from detrkit.engine.observers import Curves


def row(epoch: int, **more: Any) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "best": epoch != 3,
        "lr": 1e-4,
        "lr/backbone": 1e-5,
        "lr/encoder": 1e-4,
        "lr/decoder": 1e-4,
        "train/loss": 30.0 - epoch,
        "train/loss_vfl": 1.0,
        "train_aux/loss_vfl_0": 1.0,
        "val/AP": 0.1 * epoch if epoch != 3 else 0.05,
        "val/AP50": 0.2 * epoch,
        "val/AP75": 0.1,
        "val/APs": -1.0,
        "val/APm": 0.1,
        "val/APl": 0.1,
        "resources/images_per_second": 100.0,
        **more,
    }


def panels(*runs: RunCurves) -> dict[str, Any]:
    figure = curves._figure(runs)
    return {axes.get_title(loc="left") or axes.get_title(): axes for axes in figure.axes}


def lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    }


STAGES = [("strong augmentation", 0), ("refine", 2)]


def test_one_run() -> None:
    found = panels(RunCurves("run-1", [row(e) for e in range(4)], STAGES))
    assert list(found) == [
        "Average precision", "AP by size of object", "Training loss, all terms",
        "Loss terms of the last layer", "Learning rate", "Training images per second",
    ]  # fmt: skip
    ap = found["Average precision"]
    assert lines(ap)["AP"] == ([1, 2, 3, 4], pytest.approx([0.0, 0.1, 0.2, 0.05]))
    texts = [text.get_text() for text in ap.texts]
    assert "AP 0.200 in epoch 3" in texts  # the best, not the last
    assert "refine" in texts
    assert any(line.get_xdata()[0] == 2.5 for line in ap.lines)  # where the stage begins
    assert set(lines(found["AP by size of object"])) == {"medium", "large"}  # -1: undefined
    assert set(lines(found["Loss terms of the last layer"])) == {"vfl"}
    assert set(lines(found["Learning rate"])) == {"backbone", "encoder\ndecoder"}


def test_distillation_and_images_without_targets() -> None:
    more = {
        "train_distill/class": 0.5,
        "train_distill/cwd_encoder_0": 2.0,
        "train/distill_gradient_ratio": 0.3,
        "val/oa_fppi": 1.5,
        "val/oa_clean_rate": 0.25,
    }
    found = panels(RunCurves("run", [row(0, **more), row(1)]))
    assert lines(found["Distillation"]) == {"class": ([1], [0.5]), "cwd encoder 0": ([1], [2.0])}
    assert lines(found["Gradient: distillation by detection"])["ratio of norms"] == ([1], [0.3])
    assert lines(found["False detections, images without targets"])["per image"] == ([1], [1.5])
    assert lines(found["Images without targets"]) == {"share without detections": ([1], [0.25])}


def test_a_run_without_validation_shows_what_there_is() -> None:
    rows = [{"epoch": 0, "train/loss": 3.0, "lr": 1e-4, "best": True}]
    assert list(panels(RunCurves("x", rows))) == ["Training loss, all terms", "Learning rate"]


@pytest.mark.parametrize("hole", [None, float("nan"), float("inf"), "text"])
def test_holes_are_left_out(hole: Any) -> None:
    rows = [row(0), row(1, **{"val/AP": hole, "train/loss": hole}), row(2)]
    found = panels(RunCurves("x", rows))
    assert lines(found["Average precision"])["AP"][0] == [1, 3]


def test_several_runs_are_told_apart() -> None:
    found = panels(RunCurves("a", [row(0), row(1)]), RunCurves("b", [row(e) for e in range(5)]))
    assert set(lines(found["Average precision"])) == {"a: AP", "a: AP50", "b: AP", "b: AP50"}
    assert set(lines(found["Training loss, all terms"])) == {"a", "b"}


def test_a_name_in_any_script_and_pyplot_stays_as_it_is() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    picture = draw_curves([RunCurves("训练_кошки-1", [row(0), row(1)], STAGES)])
    assert min(picture.size) > 500
    assert dict(matplotlib.rcParams) == before


def write_log(path: Path, epochs: int) -> Path:
    path.write_text("".join(json.dumps(row(e)) + "\n" for e in range(epochs)))
    return path


@pytest.mark.parametrize(("done", "planned", "drawn"), [(0, 4, 0), (1, 4, 0), (2, 4, 1), (1, 1, 1)])
def test_an_unfinished_run_needs_two_epochs(
    tmp_path: Path, done: int, planned: int, drawn: int
) -> None:
    table = write_log(tmp_path / "log.jsonl", done)
    Curves(tmp_path / "curves.png", table, "run", planned, STAGES).close()
    assert (tmp_path / "curves.png").exists() == bool(drawn)
    if drawn:
        with Image.open(tmp_path / "curves.png") as picture:
            assert picture.format == "PNG"


def test_a_failure_costs_the_picture_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no fonts at all")

    monkeypatch.setattr(Figure, "savefig", broken)
    Curves(tmp_path / "c.png", write_log(tmp_path / "l", 3), "run", 3, STAGES).close()
    assert "no picture of the curves: no fonts at all" in caplog.text
    assert not (tmp_path / "c.png").exists()
