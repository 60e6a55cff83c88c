"""`detrkit doctor` end to end, and `--batch auto`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detrkit.cli.app import main
from detrkit.data import open_splits
from tests.conftest import REPOSITORY
from tests.engine.bright import small_detector
from tests.engine.tiny_data import write_coco, write_config


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `data/` and `tiny.yml`, which is the working folder."""
    write_coco(tmp_path / "data", train=8, val=3)
    write_config(tmp_path, REPOSITORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own checks have tests of their own; here they only take time."""
    from detrkit.engine.doctor import examine
    from detrkit.engine.doctor.report import Section

    monkeypatch.setattr(examine, "examine_environment", lambda env: Section("environment"))


def found(out: str) -> dict[str, Any]:
    """One JSON object, nothing else: {code: check}, and the whole under ""."""
    data = json.loads(out)
    assert data["kind"] == "doctor"
    checks = {check["code"]: check for check in data["checks"]}
    return {**checks, "": data}


def files(folder: Path) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_the_machine_alone(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("doctor")
    assert result.code in (0, 1)  # 1 where this machine has a problem
    assert result.out.startswith("environment\n")
    for word in ("torch", "memory", "disk.runs", "opencv", "font", "nothing stands in the way"):
        assert word in result.out or result.code
    assert "config" not in result.out
    assert not list(tmp_path.iterdir())
    checks = found(run("doctor", "--json").out)
    assert {"python", "torch", "cpu", "memory", "shared-memory", "hotcoco"} <= set(checks)
    assert sum(checks[""]["counts"].values()) == len(checks[""]["checks"])


@pytest.mark.usefixtures("quick_machine")
def test_everything_on_good_data(run: Callable, place: Path) -> None:
    before = files(place)
    result = run("doctor", "tiny.yml", "--data", "data")
    assert result.code == 0, result.out
    order = [result.out.index(f"\n{name}\n") for name in ("config", "data", "plan", "forecast")]
    assert order == sorted(order)
    assert "Traceback" not in result.err
    assert files(place) == before  # nothing is written
    checks = found(run("doctor", "-c", "tiny.yml", "--data", "data", "--json").out)
    assert checks[""]["exit_code"] == 0
    for code in ("step", "memory", "loader", "time", "disk"):
        assert checks[f"forecast.{code}"]["values"]
    assert checks["forecast.time"]["values"]["epochs"] == 4
    assert checks["data.validation-noise"]["status"] == "note"  # three images


@pytest.mark.usefixtures("quick_machine")
def test_quick_leaves_out_what_takes_long(run: Callable, place: Path) -> None:
    checks = found(run("doctor", "tiny.yml", "--data", "data", "--quick", "--json").out)
    sections = {check["section"] for check in checks[""]["checks"]}
    assert sections == {"config", "data", "plan"}
    assert "data.pixels" not in checks


@pytest.mark.usefixtures("quick_machine")
def test_flags_mean_what_they_mean_for_train(run: Callable, place: Path) -> None:
    arguments = ["--data", "data", "--quick", "--json", "--epochs", "10", "-b", "4", "--size", "96"]
    checks = found(run("doctor", "tiny.yml", *arguments, "-u", "seed=3").out)
    assert checks["config"]["values"] == {
        "name": "tiny", "path": str(place / "tiny.yml"), "epochs": 10, "batch": 4,
        "image_size": [96, 96],
    }  # fmt: skip
    assert checks["plan"]["values"]["batches_per_epoch"] == 2


@pytest.mark.usefixtures("quick_machine")
def test_all_problems_of_a_config_and_the_data_all_the_same(run: Callable, place: Path) -> None:
    updates = ["-u", "epocs=3", "-u", "HybridEncoder.hiden_dim=8", "-u", "use_ema=7"]
    result = run("doctor", "tiny.yml", "--data", "data", "--quick", "--json", *updates)
    assert result.code == 3
    checks = [c for c in found(result.out)[""]["checks"] if c["status"] == "problem"]
    assert len(checks) == 3
    assert any("did you mean `epochs`" in check["text"] for check in checks)
    assert found(result.out)["data.splits"]["values"]["train"]["images"] == 8


@pytest.mark.usefixtures("quick_machine")
def test_data_that_stops(run: Callable, place: Path) -> None:
    file = place / "data" / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["images"][1]["id"] = content["images"][0]["id"]
    file.write_text(json.dumps(content))
    result = run("doctor", "tiny.yml", "--data", "data")
    assert result.code == 4
    assert "one image id for two files" in result.out
    assert "give every image its own id" in result.out
    assert "val 3 images" in result.out  # the rest is still looked at
    assert result.err.count("error") == 0


@pytest.mark.usefixtures("quick_machine")
def test_weights_that_do_not_fit(run: Callable, place: Path) -> None:
    small_detector(place / "other.pth")
    before = (place / "other.pth").read_bytes()
    arguments = ["tiny.yml", "--data", "data", "--quick", "--json", "-w", "other.pth"]
    fits = found(run("doctor", *arguments).out)
    assert fits["weights.tensors"]["status"] in ("ok", "warning")
    result = run("doctor", "rtdetrv2_r18vd_120e_coco", *arguments[1:])
    assert result.code == 5
    assert "another model or size" in found(result.out)["weights.tensors"]["text"]
    assert (place / "other.pth").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "data"], "which config?"),
        (["--fix"], "which config?"),
        (["tiny.yml", "--batch", "few"], "expected a number or auto"),
        (["tiny.yml", "--size", "100"], "multiples of 32"),
        (["tiny.yml", "--steps", "0"], "--steps"),
    ],
)
@pytest.mark.usefixtures("quick_machine")
def test_wrong_command_lines(run: Callable, place: Path, arguments: list[str], words: str) -> None:
    result = run("doctor", *arguments)
    assert result.code == 2
    assert words in result.err


@pytest.mark.usefixtures("quick_machine")
def test_no_such_device_and_no_data(run: Callable, place: Path) -> None:
    result = run("doctor", "tiny.yml", "--data", "data", "-d", "tpu9", "--quick")
    assert result.code == 2
    assert "no device `tpu9`" in result.out
    result = run("doctor", "tiny.yml", "--data", "nowhere", "--quick")
    assert result.code == 4
    assert "no such file or folder" in result.out
    assert run("doctor", "no_such_config", "--quick").code == 3


# -- fix ---------------------------------------------------------------------------------------


@pytest.fixture
def messy(place: Path) -> Path:
    file = place / "data" / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    first = content["annotations"][0]
    content["annotations"] += [
        {**first, "bbox": [50, 50, 40, 40]},
        {**first, "id": 900, "bbox": [3, 3, 0, 9]},
        {**first, "id": 901, "category_id": 12},
    ]
    file.write_text(json.dumps(content))
    picture = place / "data" / "images" / "002.png"
    picture.write_bytes(picture.read_bytes()[:300])
    return place


@pytest.mark.usefixtures("quick_machine")
def test_fix_and_train_on_it(run: Callable, messy: Path) -> None:
    before = files(messy / "data")
    result = run("doctor", "tiny.yml", "--data", "data", "--quick", "--fix", "--json")
    checks = found(result.out)
    assert result.code == 4  # the data as they are: 3 of 17 boxes are left out
    assert checks["fix"]["status"] == "ok"
    assert checks["fix"]["values"]["left"] == {}
    assert checks["fix"]["values"]["folder"] == "data-clean"
    assert files(messy / "data") == before
    changes = json.loads((messy / "data-clean" / "changes.json").read_text(encoding="utf-8"))
    assert changes["train"]["counts"]["clipped"] == 1
    clean = open_splits(messy / "data-clean")
    assert len(clean["train"]) == 7
    result = run("doctor", "tiny.yml", "--data", "data-clean", "--quick", "--json")
    assert result.code == 0
    assert "data.clipped" not in found(result.out)
    assert main(["train", "tiny.yml", "--data", "data-clean", "--epochs", "1", "-o", "run"]) == 0


@pytest.mark.usefixtures("quick_machine")
def test_fix_never_writes_over_anything(run: Callable, messy: Path) -> None:
    arguments = ["doctor", "tiny.yml", "--data", "data", "--quick", "--fix", "--json"]
    assert found(run(*arguments, "-o", "data").out)["fix"]["values"]["folder"] == "data-2"
    assert found(run(*arguments).out)["fix"]["values"]["folder"] == "data-clean"
    first = files(messy / "data-clean")
    assert found(run(*arguments).out)["fix"]["values"]["folder"] == "data-clean-2"
    assert files(messy / "data-clean") == first


@pytest.mark.usefixtures("quick_machine")
def test_fix_with_a_broken_config_and_without_data(run: Callable, messy: Path) -> None:
    result = run("doctor", "tiny.yml", "--data", "data", "--fix", "--quick", "-u", "epocs=1")
    assert result.code == 3
    assert "read again without a fault" in result.out
    result = run("doctor", "tiny.yml", "--data", "nowhere", "--fix", "--quick")
    assert result.code == 4
    assert "nothing of the data set could be read" in result.out


# -- measured ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_machine")
def test_the_batch_is_found_and_its_forecast_shown(run: Callable, place: Path) -> None:
    result = run("doctor", "tiny.yml", "--data", "data", "--batch", "auto", "--json")
    assert result.code == 0, result.out
    checks = found(result.out)
    choice = checks["plan.batch"]["values"]
    assert [trial["batch"] for trial in choice["trials"]] == [1, 2]
    assert checks["forecast.step"]["values"]["batch"] == choice["batch"]
    assert checks["plan"]["values"]["batches_per_epoch"] == 8 // choice["batch"]
    quick = found(
        run("doctor", "tiny.yml", "--data", "data", "-b", "auto", "--quick", "--json").out
    )
    assert quick["plan.batch"]["status"] == "note"


def test_train_with_the_batch_that_is_found(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from detrkit.engine import batch_size
    from detrkit.engine.batch_size import BatchChoice

    asked: list[Any] = []

    def choose(cfg: Any, processes: int) -> BatchChoice:
        assert processes == 1
        asked.append(cfg.get("train_dataloader.total_batch_size"))
        return BatchChoice(4, "for the test", rate_factor=2.0)

    monkeypatch.setattr(batch_size, "choose_batch", choose)
    arguments = ["tiny.yml", "--data", "data", "--epochs", "1", "--batch", "auto"]
    assert main(["train", *arguments, "-o", "auto"]) == 0
    assert (
        "--batch auto: 4 (for the test); learning rates x 2, as the batch"
        in capsys.readouterr().err
    )
    assert asked == [2]
    import yaml

    config = yaml.safe_load((place / "auto" / "config.yml").read_text(encoding="utf-8"))
    assert config["train_dataloader"]["total_batch_size"] == 4
    assert config["optimizer"]["lr"] == pytest.approx(0.0016, rel=1e-3)
    assert json.loads((place / "auto" / "args.json").read_text(encoding="utf-8"))["batch"] == 4
    weights = ["-w", str(place / "auto" / "best.pth")]
    assert main(["tune", *arguments, *weights, "-o", "tuned"]) == 0
    assert asked == [2, 2]


@pytest.mark.usefixtures("quick_machine")
def test_overfit(run: Callable, place: Path) -> None:
    before = files(place)
    options = ["--data", "data", "--quick", "--overfit", "--json"]
    result = run("doctor", "tiny.yml", *options)
    check = found(result.out)["overfit"]
    assert result.code == 0, check
    assert check["values"]["passed"] is True
    assert files(place) == before
    result = run("doctor", "tiny.yml", *options, "--steps", "2")
    assert result.code == 4
    assert found(result.out)["overfit"]["values"]["steps"] == 2


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETRKIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("quick_machine", "drawn")
def test_the_drawn_data_set(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = "shapes://?train=24&val=6&size=64"
    result = run("doctor", "quickstart", "--data", data, "--quick", "--json", "--fix")
    assert result.code == 0, result.out
    checks = found(result.out)
    assert checks["data.splits"]["values"]["train"]["images"] == 24
    assert checks["fix"]["values"]["folder"] == "shapes-clean"


@pytest.mark.slow
@pytest.mark.usefixtures("quick_machine", "drawn")
def test_quickstart(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("doctor", "quickstart", "--overfit", "--json")
    assert result.code == 0, result.out
    assert found(result.out)["overfit"]["values"]["passed"] is True


def test_help(run: Callable) -> None:
    out = run("doctor", "--help").out
    for flag in ("--quick", "--overfit", "--fix", "--batch", "--json"):
        assert flag in out
