"""`detrkit serve` as a process: what it prints, how it ends, what it refuses to start with."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from detrkit.engine.onnx_runtime import OnnxRuntime
from detrkit.engine.predictor import Predictor
from detrkit.engine.runtime import TorchRuntime
from tests.cli.conftest import Run
from tests.engine.bright import small_detector
from tests.engine.test_onnx_runtime import write as write_onnx
from tests.serving.running import Answer, Client, encoded, until

signals = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows cannot send another process Ctrl-C alone"
)


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finds a motorcycle or a bus in every picture, the surer the brighter."""
    return write_onnx(tmp_path_factory.mktemp("onnx") / "model.onnx", size=(32, 48))


@contextmanager
def served(*arguments: str | Path, **environment: str) -> Iterator[tuple[subprocess.Popen, Client]]:
    """The process on a free port, once it says where; its stderr comes from `communicate`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "detrkit", "serve", "--port", "0", "-d", "cpu", "-w",
         *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
        env={**os.environ, **environment},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, process.communicate()[1]
        client = Client(url)
        client.wait_until_ready()
        yield process, client
    finally:
        process.kill()
        process.communicate()


@signals
def test_serves_a_checkpoint(tmp_path: Path) -> None:
    import detrkit
    from tests.engine.bright import picture

    weights = small_detector(tmp_path / "best.pth")
    with served(weights, "--conf", "0.01", "--size", "64") as (process, client):
        found = client.post(encoded()).json
        assert client.get("/info").json["image_spec"]["size"] == [64, 64]
        process.send_signal(signal.SIGTERM)
        printed, said = process.communicate(timeout=30)
        assert process.returncode == 0
    assert printed == ""
    assert "best.pth on cpu" in said
    assert re.search(r"ready after [\d.]+ s", said)
    assert "Traceback" not in said
    detector = detrkit.load(weights, device="cpu", size=(64, 64))
    expected = detector.predict(picture(), conf=0.01).to_dict()["detections"]
    assert len(found["detections"]) == len(expected) > 0
    for one, other in zip(found["detections"], expected, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_options_of_the_runtime(
    onnx: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of `infer`: number format and threads of a checkpoint, provider of a file."""
    import detrkit.serving.server as server

    detectors: list[Predictor] = []
    monkeypatch.setattr(server, "serve", lambda detector, *_: detectors.append(detector))
    monkeypatch.setattr("detrkit.engine.runtime.cpu_computes_bf16", lambda: True)
    threads = torch.get_num_threads()
    weights = small_detector(tmp_path / "best.pth")
    try:
        options = ("--half", "--threads", threads + 1)
        assert run("serve", "-w", weights, "-d", "cpu", *options).code == 0
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert run("serve", "-w", onnx, "-d", "cpu", "--provider", "cpu").code == 0
    checkpoint, file = (detector.runtime for detector in detectors)
    assert isinstance(checkpoint, TorchRuntime)
    assert checkpoint.precision.amp == "bf16"
    assert isinstance(file, OnnxRuntime)
    assert file.session.get_providers() == ["CPUExecutionProvider"]


@signals
def test_the_last_requests_are_answered(onnx: Path) -> None:
    """A request whose upload is under way when the signal comes."""
    with served(onnx) as (process, client):
        body = encoded()
        connection = client.connect()
        connection.putrequest("POST", "/detect")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:100])
        time.sleep(0.3)  # the server has seen the request
        process.send_signal(signal.SIGTERM)
        until(lambda: not _listens(client))
        connection.send(body[100:])
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["height"]) == (200, 128)
        connection.close()
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0
    assert "finishing the requests" in said


@signals
def test_a_second_signal_ends_it_at_once(onnx: Path) -> None:
    with served(onnx) as (process, client):
        connection = client.connect()
        connection.putrequest("POST", "/detect")
        connection.putheader("Content-Length", "99")
        connection.endheaders(b"x")
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        until(lambda: not _listens(client))
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        connection.close()
        assert process.returncode == 130


def _listens(client: Client) -> bool:
    try:
        socket.create_connection((client.host, client.port), timeout=5).close()
    except OSError:
        return False
    return True


@signals
def test_json_and_token_from_the_environment(onnx: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "detrkit", "serve", "-v", "-w", str(onnx), "--port", "0", "--json",
         "-d", "cpu", "--host", "localhost"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
        env={**os.environ, "DETRKIT_TOKEN": "open sesame"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        text = ""
        for line in lines:
            text += line
            if line == "}\n":
                break
        answer = json.loads(text)
        assert (answer["kind"], answer["model"]) == ("serve", "model.onnx")
        client = Client(answer["url"])
        client.wait_until_ready()
        assert client.post(encoded()).status == 401
        assert client.post(encoded(), Authorization="Bearer open sesame").status == 200
        process.send_signal(signal.SIGTERM)
        rest, said = process.communicate(timeout=30)
        assert rest == ""
        assert "sesame" not in text + said
        assert "/detect 401" in said  # requests are logged on demand
        assert "warning: whoever" not in said
    finally:
        process.kill()
        process.communicate()


@signals
def test_many_clients_of_the_network(onnx: Path) -> None:
    """Sixty requests of twelve clients over connections that are kept; one that keeps none."""
    answers: list[Answer] = []

    def ask(client: Client) -> None:
        connection = client.connect()
        for _ in range(5):
            connection.request("POST", "/detect", encoded())
            response = connection.getresponse()
            answers.append(Answer(response.status, {}, response.read()))
        connection.close()

    options = ("--workers", "2", "--batch", "4", "--host", "0.0.0.0")
    with served(onnx, *options) as (process, client):
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        text = client.get("/metrics").body.decode()
        with socket.create_connection((client.host, client.port), timeout=30) as old:
            body = encoded()
            old.sendall(b"POST /detect HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert old.makefile("rb").read().endswith(answers[0].body)  # and it hangs up
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
        assert process.returncode == 0
    assert [a.status for a in answers] == [200] * 60
    assert len({a.body for a in answers}) == 1
    assert "detrkit_batch_images_sum 60" in text
    assert "whoever reaches 0.0.0.0 may use this service" in said  # there is no token


class TestRefusals:
    def test_a_port_that_is_taken(self, onnx: Path, run: Run) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            result = run("serve", "-w", onnx, "-d", "cpu", "--port", port)
        assert result.code == 2
        assert f"cannot listen on 127.0.0.1:{port}" in result.err
        assert "--port 0" in result.err

    def test_missing_extra(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        import detrkit.serving

        monkeypatch.delattr(detrkit.serving, "server", raising=False)
        for name in [n for n in sys.modules if n.startswith("detrkit.serving.")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "uvicorn", None)
        result = run("serve", "-w", "missing.pth")
        assert result.code == 6
        assert "needs the package `uvicorn`" in result.err
        assert "pip install 'detrkit[serve]'" in result.err

    def test_weights(self, run: Run) -> None:
        assert run("serve", "-w", "missing.pth").code == 5

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--timeout", "0"], "timeout must be positive"),
            (["--timeout", "nan"], "timeout must be positive"),
            (["--max-megabytes", "0"], "max_bytes must be at least 1"),
            (["--token", " "], "a token must not be empty"),
            (["--token", "ключ"], "printable ASCII"),
            (["--port", "70000"], "65535"),
            (["--size", "big"], "big"),
            (["--provider", "abacus"], "abacus"),
            (["--threads", "0"], "--threads"),
        ],
    )
    def test_options(self, onnx: Path, run: Run, options: list[str], said: str) -> None:
        result = run("serve", "-w", onnx, "-d", "cpu", *options)
        assert result.code == 2
        assert said in result.err

    def test_a_model_that_does_not_answer(self, tmp_path: Path, run: Run) -> None:
        """Its graph takes one size, and its metadata promise another: found before any client."""
        from detrkit.engine.onnx_runtime import OnnxRuntime

        path = write_onnx(tmp_path / "model.onnx", channels=3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OnnxRuntime, "predict", lambda self, images: 1 / 0)
            result = run("serve", "-w", path, "-d", "cpu", "--port", "0")
        assert result.code == 5
        assert "the model does not answer: ZeroDivisionError" in result.err


def test_help_is_light() -> None:
    code = (
        "import sys; from detrkit.cli.app import main; main(['serve', '--help']);"
        "heavy = {'torch', 'fastapi', 'uvicorn'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
