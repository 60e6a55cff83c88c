"""`detrkit benchmark` from the command line to its tables; no time is judged."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from detrkit.engine.amp import cpu_computes_bf16
from detrkit.engine.benchmarking import measure
from tests.cli.conftest import Run
from tests.engine.bright import small_detector
from tests.engine.distributed.processes import METHOD
from tests.engine.exported import metadata, write_onnx
from tests.engine.tiny_data import write_coco

QUICK = ("--seconds", "0", "--rounds", "2", "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    small_detector(folder / "best.pth")
    write_onnx(folder / "small.onnx", metadata())
    write_onnx(folder / "single.onnx", metadata(), batch=1)
    return folder


@pytest.fixture
def here(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(files)
    return files


@contextmanager
def forking() -> Iterator[None]:
    """Processes of candidates are forked, which spares each an import of torch."""

    def get_context(method: str) -> Any:
        assert method == "spawn"
        return multiprocessing.get_context(METHOD)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "multiprocessing", SimpleNamespace(get_context=get_context))
        yield


@pytest.fixture
def forked_candidates() -> Iterator[None]:
    with forking():
        yield


@pytest.fixture(scope="module")
def measured(files: Path) -> dict[str, Any]:
    """What is measured once, as JSON; the Markdown lies in `table.md`."""
    import io

    from detrkit.cli.app import main

    written = io.StringIO()
    with forking(), pytest.MonkeyPatch.context() as patch, redirect_stdout(written):
        patch.chdir(files)
        code = main(
            ["benchmark", "torch=best.pth", "small.onnx", "one=single.onnx", "--batches", "2,1",
             "--json", "--markdown", "new/table.md", "--layers", "--depth", "1", *QUICK]
        )  # fmt: skip
    assert code == 0
    found: dict[str, Any] = json.loads(written.getvalue())
    return found


def test_json(measured: dict[str, Any], files: Path) -> None:
    assert (measured["kind"], measured["version"]) == ("benchmark", 1)
    assert (measured["includes"], measured["batches"], measured["rounds"]) == ("model", [1, 2], 2)
    assert {"cpu", "cores", "governor", "mhz", "load", "versions", "gpus"} <= set(
        measured["setting"]
    )
    torch, onnx, single = measured["candidates"]
    assert [c["name"] for c in measured["candidates"]] == ["torch", "small.onnx", "one"]
    assert (torch["runtime"], onnx["runtime"]) == ("PyTorch", "ONNX Runtime, cpu")
    for each in (torch, onnx):
        assert (each["device"], each["precision"], each["threads"]) == ("cpu", "fp32", 1)
        assert each["size"] == [64, 96]
        assert set(each["start"]) == {"open", "first"}
        assert [times["batch"] for times in each["batches"]] == [1, 2]
        for times in each["batches"]:
            assert times["calls"] == 2
            assert 0 < times["p50"] <= times["p90"] <= times["p99"]
            assert times["images_per_second"] > 0
    assert torch["parameters"] > 1e6 > onnx["parameters"]
    assert torch["file_bytes"] == (files / "best.pth").stat().st_size
    assert torch["ratios"] == []
    for ratio in onnx["ratios"]:
        assert ratio["low"] <= ratio["value"] <= ratio["high"]
        assert ratio["verdict"] in ("faster", "slower", "may be chance")
    assert [times["batch"] for times in single["batches"]] == [1]
    assert single["left_out"] == {"2": "the file takes 1 images per call"}


def test_where_the_time_goes(measured: dict[str, Any], files: Path) -> None:
    torch, onnx, _ = (candidate["breakdown"] for candidate in measured["candidates"])
    assert torch["batch"] == onnx["batch"] == 1
    names = [row["name"] for row in torch["layers"]]
    assert [name for name in names if name in ("backbone", "encoder", "decoder")] == [
        "backbone", "encoder", "decoder",
    ]  # fmt: skip
    assert names[-1] == "selection of detections"
    kinds = {row["name"]: row["share"] for row in onnx["operations"]}
    assert {"convolution", "matrix product", "activation", "selection"} <= set(kinds)
    for part in (torch["layers"], torch["operations"], onnx["layers"], onnx["operations"]):
        assert sum(row["share"] for row in part) == pytest.approx(1)
    assert sum(row["milliseconds"] for row in onnx["layers"]) == pytest.approx(
        sum(row["milliseconds"] for row in onnx["operations"])
    )
    assert "taken off" in torch["how"][0]
    assert "ONNX Runtime's profiler" in onnx["how"][0]
    text = (files / "new/table.md").read_text(encoding="utf-8")
    assert "**torch: where the time goes, 1 image per call**" in text
    assert re.search(r"\| backbone \| [\d.]+ \| [\d.]+ \| 1 \| HGNetv2 \|", text)
    assert not list(files.glob("*profile*"))


def test_markdown(measured: dict[str, Any], files: Path) -> None:
    text = (files / "new/table.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0].startswith("| detector | runtime | precision | input | AP |")
    assert re.search(r"\| small\.onnx \| ONNX Runtime, cpu \| fp32 \| 64x96 \|", text)
    widths = {line.count("|") for line in lines[:5]}
    assert len(widths) == 1
    assert "without reading, resizing and normalising" in text
    assert "the file takes 1 images per call" in text


@pytest.mark.usefixtures("forked_candidates")
def test_tables_with_preprocessing_and_ap(run: Run, here: Path) -> None:
    write_coco(here / "data", train=1, val=2, size=(64, 64))
    for file in (here / "data/annotations").iterdir():
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace('"red"', '"cat"').replace('"green"', '"dog"'), "utf-8")
    half = "+half" if cpu_computes_bf16() else ""
    result = run(
        "benchmark", f"a=best.pth{half}", "tiny=dfine_n_coco", "--includes", "all",
        "--data", "data", "--size", "64x96", *QUICK,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "with resizing, transfer and postprocessing" in result.out
    rows = [line.split() for line in result.out.splitlines()]
    a, tiny = (next(row for row in rows if row and row[0] == name) for name in ("a", "tiny"))
    assert (a[2], tiny[2]) == ("bf16" if half else "fp32", "fp32")
    assert 0 <= float(a[4]) <= 1
    assert tiny[4] == "–"
    assert "tiny: no AP: its weights are random" in result.out
    assert "AP on data, val" in result.out


def test_a_process_that_is_spawned_says_what_is_wrong(run: Run, here: Path) -> None:
    result = run("benchmark", "absent.pth", *QUICK)
    assert result.code == 5
    assert "absent.pth: " in result.err
    assert "Traceback" not in result.err


@pytest.mark.usefixtures("forked_candidates")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["dfine_q_coco"], 3, "dfine_q_coco: "),
        (["best.pth", "best.pth"], 2, "two candidates are called best.pth"),
        (["best.pth", "--batches", "1,x"], 2, "expected numbers"),
        (["best.pth", "--batches", "0"], 2, "at least 1"),
        (["best.pth", "--includes", "files"], 2, "choose model or all"),
        (["best.pth", "--split", "val"], 2, "--split is a part of --data"),
        (["best.pth", "--depth", "1"], 2, "--depth is a part of --layers"),
        (["small.onnx", "--size", "96x96"], 2, "only takes images of 64x96"),
    ],
)
def test_mistakes(run: Run, here: Path, arguments: list[str], code: int, message: str) -> None:
    result = run("benchmark", *arguments, *QUICK)
    assert result.code == code
    assert message in result.err
    assert "Traceback" not in result.err
    assert not result.out
