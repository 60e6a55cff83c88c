"""`detrkit infer`: what is written, what is read, and in how much memory."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit.cli.app import main
from detrkit.data.detect import open_dataset
from detrkit.data.faults import FaultKind
from tests.conftest import REPOSITORY
from tests.engine.bright import picture, small_detector
from tests.forked import detrkit


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_detector(tmp_path_factory.mktemp("weights") / "best.pth"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    picture().save(tmp_path / "in" / "000000000139.png")
    picture((128, 100)).save(tmp_path / "in" / "a.png")
    picture().save(tmp_path / "in" / "sub" / "A.png")
    return tmp_path


def run(weights: str, *args: str) -> int:
    return main(["infer", "-w", weights, "--device", "cpu", "--conf", "0", *args])


class TestSaving:
    def test_coco(self, weights: str) -> None:
        assert run(weights, "in", "-o", "out", "--save", "coco", "--max-det", "2") == 0
        assert sorted(p.name for p in Path("out").iterdir()) == ["images.json", "predictions.json"]
        results = json.loads(Path("out/predictions.json").read_text(encoding="utf-8"))
        images = json.loads(Path("out/images.json").read_text(encoding="utf-8"))
        assert [i["id"] for i in images["images"]] == [139, "a", "A-2"]
        assert {c["id"]: c["name"] for c in images["categories"]} == {4: "cat", 9: "猫", 2: "dog"}
        assert [r["image_id"] for r in results] == [139, 139, "a", "a", "A-2", "A-2"]
        assert set(results[0]) == {"image_id", "category_id", "bbox", "score"}

    def test_coco_of_nothing(self, weights: str) -> None:
        assert run(weights, "in", "-o", "out", "--save", "coco", "--conf", "1") == 0
        assert json.loads(Path("out/predictions.json").read_text(encoding="utf-8")) == []

    def test_yolo_reads_as_labels(self, weights: str, folder: Path) -> None:
        assert run(weights, "in", "-o", "out", "--save", "yolo", "--max-det", "3") == 0
        names = sorted(p.name for p in Path("out/labels").iterdir())
        assert names == ["000000000139.txt", "A-2.txt", "a.txt", "classes.txt"]
        assert Path("out/labels/classes.txt").read_text(encoding="utf-8") == "cat\n猫\ndog\n"
        (folder / "set" / "images").mkdir(parents=True)
        picture((128, 100)).save(folder / "set" / "images" / "a.png")
        Path("out/labels").rename(folder / "set" / "labels")
        (folder / "set" / "labels" / "classes.txt").rename(folder / "set" / "classes.txt")
        index = open_dataset(folder / "set")
        assert index.class_map.names == ("cat", "猫", "dog")
        assert len(index.boxes_xyxy) == 3
        assert all(
            fault.kind in (FaultKind.LABEL_WITHOUT_IMAGE, FaultKind.CLASS_WITHOUT_BOXES)
            for fault in index.faults
        )

    def test_csv(self, weights: str) -> None:
        assert run(weights, "in", "-o", "out", "--save", "csv,jsonl", "--max-det", "2") == 0
        text = Path("out/detections.csv").read_text(encoding="utf-8")
        rows = list(csv.DictReader(io.StringIO(text)))
        entries = Path("out/detections.jsonl").read_text(encoding="utf-8").splitlines()
        expected = [d for line in entries for d in json.loads(line)["detections"]]
        assert [float(r["x1"]) for r in rows] == [d["box_xyxy"][0] for d in expected]
        assert [r["label"] for r in rows] == [d["label"] for d in expected]
        assert rows[0]["frame"] == rows[0]["track_id"] == ""

    def test_crops(self, weights: str) -> None:
        assert run(weights, "in/a.png", "-o", "out", "--save", "crops", "--max-det", "4") == 0
        files = sorted(Path("out/crops").rglob("*.jpg"))
        assert 1 <= len(files) <= 4
        assert {f.parent.name for f in files} <= {"cat", "猫", "dog"}
        for file in files:
            with Image.open(file) as crop:
                assert crop.width <= 100
                assert crop.height <= 128

    def test_default_is_what_it_was(self, weights: str) -> None:
        assert run(weights, "in", "-o", "out") == 0
        assert sorted(p.name for p in Path("out").iterdir()) == [
            "000000000139.jpg", "A-2.jpg", "a.jpg", "detections.jsonl",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("save", "message"),
        [("cocoo", "did you mean `coco`"), (",", "--save needs a name")],
    )
    def test_mistakes(self, weights: str, capsys: Any, save: str, message: str) -> None:
        assert run(weights, "in", "--save", save) == 2
        assert message in capsys.readouterr().err

    def test_a_folder_that_cannot_be_written(self, weights: str, folder: Path, capsys: Any) -> None:
        (folder / "file").write_text("in the way")
        assert run(weights, "in", "-o", "file/out") == 1
        assert "cannot write" in capsys.readouterr().err


class TestDrawing:
    def test_line_and_letters(self, weights: str) -> None:
        drawn = []
        for number, args in enumerate(([], ["--line-width", "9"], ["--font-size", "30"])):
            assert run(weights, "in/a.png", "-o", f"out{number}", "--max-det", "1", *args) == 0
            with Image.open(f"out{number}/a.jpg") as image:
                drawn.append(np.asarray(image).astype(int))
        assert np.abs(drawn[0] - drawn[1]).max() > 50
        assert np.abs(drawn[0] - drawn[2]).max() > 50


class TestNames:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("names.txt", "Katze\nNeko\n\nHund\n"),
            ("names.json", '["Katze", "Neko", "Hund"]'),
            ("data.yaml", "names: {0: Katze, 1: Neko, 2: Hund}\n"),
            (None, "Katze,Neko, Hund"),
            (None, f"{'k' * 5000},Neko,Hund"),
        ],
    )
    def test_other_names(
        self, weights: str, folder: Path, capsys: Any, name: str | None, content: str
    ) -> None:
        if name:
            (folder / name).write_text(content, encoding="utf-8")
        args = ["--names", name or content, "--classes", "hund", "--json"]
        assert run(weights, "in/a.png", *args) == 0
        answer = json.loads(capsys.readouterr().out)
        found = answer["images"][0]["detections"]
        assert {d["label"] for d in found} == {"Hund"}
        assert {d["category_id"] for d in found} == {2}

    @pytest.mark.parametrize(
        ("given", "code", "message"),
        [("a,b", 2, "2 names for a detector of 3 classes"), ("no.txt", 4, "no.txt")],
    )
    def test_mistakes(self, weights: str, capsys: Any, given: str, code: int, message: str) -> None:
        assert run(weights, "in", "--names", given) == code
        assert message in capsys.readouterr().err


class TestStdin:
    def run(self, weights: str, text: str, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*detrkit(), "infer", "-w", weights, "--device", "cpu", "-", "-o", "out", *args],
            input=text, capture_output=True, text=True, encoding="utf-8", timeout=120,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUTF8": "1"},
        )  # fmt: skip

    def test_paths(self, weights: str) -> None:
        done = self.run(weights, "in/a.png\n\nin/sub\nmissing.png\n", "--no-draw")
        assert done.returncode == 4, done.stderr
        assert len(done.stdout.splitlines()) == 2
        assert "missing.png: file not found" in done.stderr
        assert sorted(p.name for p in Path("out").iterdir()) == ["broken.txt", "detections.jsonl"]

    @pytest.mark.skipif(os.name == "nt", reason="signals of Windows")
    def test_ctrl_c_while_nothing_comes(self, weights: str) -> None:
        process = subprocess.Popen(
            [*detrkit(), "infer", "-w", weights, "--device", "cpu", "-",
             "-o", "out", "--batch", "1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(b"in/a.png\n" * 3 + b"in/000000000139.png\nin/sub/A.png\n")
        process.stdin.flush()
        for _ in range(600):
            time.sleep(0.1)
            if Path("out/detections.jsonl").exists():
                break
        process.send_signal(signal.SIGINT)
        process.wait(60)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 130, error
        assert b"Fatal" not in error
        lines = Path("out/detections.jsonl").read_text(encoding="utf-8").splitlines()
        assert 1 <= len(lines) <= 3

    def test_alone(self, weights: str, capsys: Any) -> None:
        assert run(weights, "-", "in") == 2
        assert "give no others beside it" in capsys.readouterr().err


class TestSlice:
    def test_tiles(self, weights: str) -> None:
        assert run(weights, "in", "-o", "out", "--slice", "64", "--overlap", "0.3") == 0
        assert len(Path("out/detections.jsonl").read_text(encoding="utf-8").splitlines()) == 3

    def test_a_picture_that_fits(self, weights: str) -> None:
        for name, args in (("plain", []), ("tiled", ["--slice", "256"])):
            assert run(weights, "in", "-o", name, "--no-draw", *args) == 0
        texts = [
            Path(n, "detections.jsonl").read_text(encoding="utf-8") for n in ("plain", "tiled")
        ]
        assert texts[0] == texts[1]

    def test_mistakes(self, weights: str, capsys: Any) -> None:
        assert run(weights, "in", "--slice", "many") == 2
        assert "--slice many" in capsys.readouterr().err


def test_half_needs_a_device_that_has_it(weights: str, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("detrkit.engine.runtime.cpu_computes_bf16", lambda: False)
    assert run(weights, "in", "--half") == 2
    assert "does not compute in bf16" in capsys.readouterr().err
    monkeypatch.setattr("detrkit.engine.runtime.cpu_computes_bf16", lambda: True)
    assert run(weights, "in", "--half", "-o", "out") == 0


def test_many_pictures_in_little_memory(weights: str, folder: Path) -> None:
    """Of 150 pictures, three broken, neither pixels nor results pile up."""
    (folder / "many").mkdir()
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (800, 800, 3), dtype=np.uint8)).save(
        content, format="JPEG", quality=30
    )
    for number in range(150):
        data = content.getvalue()
        (folder / "many" / f"{number:04d}.jpg").write_bytes(
            data[:999] if number % 60 == 5 else data
        )
    script = (
        "import sys, resource; from detrkit.cli.app import main; code = 0\n"
        "def go(source, out): return main(['infer', '-w', sys.argv[1], '--device', 'cpu', source, "
        "'-o', out, '--conf', '0', '--batch', '4'])\n"
        "go('in', 'warm'); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "code = go('many', 'out'); after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print('grown', (after - before) // 1024, 'code', code)"
    )
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", script, weights], capture_output=True, text=True, timeout=250,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    last = done.stdout.splitlines()[-1].split()
    assert last[2:] == ["code", "4"], done.stderr
    assert int(last[1]) < 150, last  # MiB; the pictures alone would be 280
    assert "3 images could not be read" in done.stderr
    assert len(list(Path("out").glob("*.jpg"))) == 147
