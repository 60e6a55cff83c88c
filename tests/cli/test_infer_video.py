"""`detrkit infer` on videos and streams, from the command line to the files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detrkit.cli.app import main
from tests.conftest import REPOSITORY
from tests.engine.bright import picture, small_detector
from tests.engine.media.test_live import Mjpeg, Quiet, server
from tests.engine.moving import read_back, rotate_mp4, write_video
from tests.forked import detrkit

pytest.importorskip("av")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_detector(tmp_path_factory.mktemp("weights") / "best.pth"))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(weights: str, *args: str) -> int:
    return main(["infer", "-w", weights, "--device", "cpu", "--conf", "0", *args])


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "detections.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_video_becomes_a_video(weights: str, place: Path, capsys: Any) -> None:
    write_video(place / "clip.mp4", audio="aac")
    assert run(weights, "clip.mp4", "--max-det", "3", "-o", "out") == 0
    assert sorted(p.name for p in Path("out").iterdir()) == ["clip.mp4", "detections.jsonl"]
    frames, container = read_back(Path("out/clip.mp4"))
    assert len(frames) == 12
    assert [float(f.pts * f.time_base) for f in frames] == pytest.approx(np.arange(12) / 10)
    assert container.streams.audio[0].codec_context.name == "aac"
    source, _ = read_back(place / "clip.mp4")
    drawn, plain = (f[6].to_ndarray(format="rgb24").astype(int) for f in (frames, source))
    assert np.abs(drawn - plain).max() > 100  # something was drawn
    entries = lines(Path("out"))
    assert [e["frame"] for e in entries] == list(range(12))
    assert [e["seconds"] for e in entries] == pytest.approx(np.arange(12) / 10, abs=1e-3)
    assert entries[0]["image"] == "clip.mp4"
    assert len(entries[0]["detections"]) == 3
    captured = capsys.readouterr()
    assert "clip.mp4  12 frames, 36 detections" in captured.out
    assert "12 frames" in captured.err
    assert "videos and detections.jsonl in out" in captured.err


def test_variable_rate_odd_size_and_rotation(weights: str, place: Path) -> None:
    times = [0, 40, 300, 320, 900]
    write_video(place / "odd.mp4", 5, size=(97, 161), times=times)
    write_video(place / "phone.mp4", 2)
    rotate_mp4(place / "phone.mp4")
    assert run(weights, "odd.mp4", "phone.mp4", "-o", "out") == 0
    frames, _ = read_back(Path("out/odd.mp4"))
    assert (frames[0].height, frames[0].width) == (98, 162)
    seconds = [float(f.pts * f.time_base) for f in frames]
    assert seconds == pytest.approx(np.array(times) / 1000, abs=2e-3)
    frames, _ = read_back(Path("out/phone.mp4"))
    assert (frames[0].height, frames[0].width, frames[0].rotation) == (160, 96, 0)
    assert [(e["height"], e["width"]) for e in lines(Path("out"))] == [(97, 161)] * 5 + [
        (160, 96)
    ] * 2


def test_folder_of_both_steps_and_limit(weights: str, place: Path, capsys: Any) -> None:
    (place / "in").mkdir()
    write_video(place / "in" / "b.mp4")
    picture().save(place / "in" / "a.png")
    picture().save(place / "in" / "c.png")
    assert run(weights, "in", "-o", "out", "--frame-step", "5") == 0
    assert [(e.get("frame"), Path(e["image"]).name) for e in lines(Path("out"))] == [
        (None, "a.png"), (0, "b.mp4"), (5, "b.mp4"), (10, "b.mp4"), (None, "c.png"),
    ]  # fmt: skip
    frames, _ = read_back(Path("out/b.mp4"))
    assert [float(f.pts * f.time_base) for f in frames] == pytest.approx([0, 0.5, 1.0])
    assert "2 images and 3 frames" in capsys.readouterr().err
    assert run(weights, "in", "-o", "few", "--limit", "4") == 0
    assert len(lines(Path("few"))) == 4
    assert len(read_back(Path("few/b.mp4"))[0]) == 3


def test_frames_as_pictures_and_lists(weights: str, place: Path) -> None:
    write_video(place / "clip.mp4", 3)
    kinds = "pictures,coco,yolo,csv,crops,mot"
    assert run(weights, "clip.mp4", "-o", "out", "--max-det", "2", "--save", kinds) == 0
    assert sorted(p.name for p in Path("out").iterdir()) == [
        "clip", "crops", "detections.csv", "images.json", "labels", "mot", "predictions.json",
    ]  # fmt: skip
    assert sorted(p.name for p in Path("out/clip").iterdir()) == [
        f"clip_00000{i}.jpg" for i in (1, 2, 3)
    ]
    mot = Path("out/mot/clip.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[:2] for line in mot] == [[str(i), "-1"] for i in (1, 1, 2, 2, 3, 3)]


def test_tracks(weights: str, place: Path, capsys: Any) -> None:
    pytest.importorskip("trackers")
    write_video(place / "clip.mp4", 8)
    args = ("clip.mp4", "-o", "out", "--track", "bytetrack", "--save", "mot,jsonl,video")
    assert run(weights, *args) == 0
    tracked = [d for e in lines(Path("out")) for d in e["detections"]]
    assert tracked
    assert all(d["track_id"] >= 1 for d in tracked)
    rows = Path("out/mot/clip.txt").read_text(encoding="utf-8").splitlines()
    assert len(rows) == len(tracked)
    assert "track" in capsys.readouterr().out
    assert run(weights, "clip.mp4", "--track", "deepsort") == 2
    error = capsys.readouterr().err
    assert "no tracker `deepsort`" in error
    assert "bytetrack, botsort, ocsort" in error


class TestDamage:
    def test_what_can_be_read_is_done(self, weights: str, place: Path, capsys: Any) -> None:
        content = write_video(place / "a.mkv", 40, options={"g": "5"}).read_bytes()
        (place / "a.mkv").write_bytes(content[: len(content) * 6 // 10])
        write_video(place / "b.mp4", 3)
        (place / "c.mp4").write_bytes(b"nothing")
        assert run(weights, "a.mkv", "b.mp4", "c.mp4", "-o", "out") == 4
        captured = capsys.readouterr()
        assert "2 sources could not be read, or not to the end" in captured.err
        assert "a.mkv: ends at " in captured.err
        assert "c.mp4: no video that can be read" in captured.err
        assert "b.mp4  3 frames" in captured.out
        assert 10 <= len(read_back(Path("out/a.mp4"))[0]) < 35
        assert len(read_back(Path("out/b.mp4"))[0]) == 3
        broken = Path("out/broken.txt").read_text(encoding="utf-8").splitlines()
        assert [line.split("\t")[0] for line in broken] == ["a.mkv", "c.mp4"]

    def test_nothing_to_read(self, weights: str, place: Path, capsys: Any) -> None:
        (place / "empty.mp4").touch()
        assert run(weights, "empty.mp4") == 4
        assert run(weights, "missing.mp4") == 4
        assert "missing.mp4: file not found" in capsys.readouterr().err
        assert not Path("runs").exists()

    def test_without_pyav(self, weights: str, place: Path, monkeypatch: Any, capsys: Any) -> None:
        (place / "a.mp4").touch()
        monkeypatch.setitem(sys.modules, "av", None)
        assert run(weights, "a.mp4") == 6
        assert "pip install 'detrkit[video]'" in capsys.readouterr().err
        assert run(weights, "rtsp://10.0.0.1/x") == 6

    def test_full_disk(self, weights: str, place: Path, capsys: Any) -> None:
        resource = pytest.importorskip("resource")
        write_video(place / "a.mp4", 100, size=(240, 480))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        try:
            code = run(weights, "a.mp4", "-o", "out", "--max-det", "20", "--save", "video,csv")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert code == 1
        error = capsys.readouterr().err
        assert "no space left" in error
        assert "may not grow" in error
        assert not list(Path("out").glob(".*"))  # no half video


class TestLive:
    def test_motion_jpeg_with_a_limit(self, weights: str, capsys: Any) -> None:
        with server(Mjpeg) as address:
            assert run(weights, f"{address}/cam", "--limit", "3", "-o", "out") == 0
        entries = lines(Path("out"))
        assert len(entries) == 3
        assert [e["seconds"] for e in entries] == sorted(e["seconds"] for e in entries)
        (video,) = Path("out").glob("*.mp4")
        assert len(read_back(video)[0]) == 3
        assert "3 frames" in capsys.readouterr().out

    def test_a_stream_that_ends(self, weights: str, capsys: Any) -> None:
        """It is opened again for a while; what came until then is kept."""
        with server(partial(OnceMjpeg)) as address:
            code = run(weights, f"{address}/cam", "--stream-timeout", "1", "-o", "out", "--json")
        assert code == 4
        captured = capsys.readouterr()
        answer = json.loads(captured.out)
        assert answer["videos"][0]["frames"] == len(answer["images"]) >= 1
        assert "no frame for 1 s after" in answer["broken"][0]["reason"]
        assert (len(answer["images"]) + answer["videos"][0]["dropped"]) <= 6

    def test_a_file_on_a_server(self, weights: str, place: Path) -> None:
        (place / "www").mkdir()
        write_video(place / "www" / "a.mkv", 5)
        with server(partial(Quiet, directory=str(place / "www"))) as address:
            assert run(weights, f"{address}/a.mkv", "-o", "out") == 0
        assert [e["frame"] for e in lines(Path("out"))] == list(range(5))

    def test_two_at_once_are_refused(self, weights: str, capsys: Any) -> None:
        assert run(weights, "0", "rtsp://10.0.0.1/x") == 2
        assert "give one at a time" in capsys.readouterr().err

    def test_nobody_answers(self, weights: str, capsys: Any) -> None:
        assert run(weights, "rtsp://me:secret@127.0.0.1:9/x", "--stream-timeout", "0.5") == 4
        error = capsys.readouterr().err
        assert "rtsp://127.0.0.1:9/x: no frame for 0.5 s" in error
        assert "secret" not in error


class OnceMjpeg(Mjpeg):
    """Serves its pictures once; later requests get none."""

    served = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/cam" and not self.served.is_set():
            if "Lavf" in (self.headers.get("User-Agent") or ""):
                type(self).asked = getattr(type(self), "asked", 0) + 1
            if getattr(type(self), "asked", 0) >= 2:  # the first request only asks for the length
                self.served.set()
            super().do_GET()
        else:
            self.send_error(404)


@pytest.mark.skipif(os.name == "nt", reason="signals of Windows")
def test_ctrl_c_finishes_the_video(weights: str, place: Path) -> None:
    write_video(place / "long.mp4", 600)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*detrkit(), "infer", "-w", weights, "--device", "cpu",
         "long.mp4", "-o", "out", "--batch", "1"],
        env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    for _ in range(600):
        time.sleep(0.1)
        file = Path("out/detections.jsonl")
        if file.exists() and file.stat().st_size > 500:
            break
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert b"what is done is in out" in error
    done = lines(Path("out"))
    assert 0 < len(done) < 600
    assert len(read_back(Path("out/long.mp4"))[0]) == len(done)
    assert not list(Path("out").glob(".*"))
