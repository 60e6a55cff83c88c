"""How much of the model's throughput a service gives its clients, with and without batching.

    python -m tests.benchmarks.serve [-w WEIGHTS] [--image FILE] [--clients 1 4 16] [--seconds 8]
        [--model deimv2_atto_coco]

Two services run as processes, one of them with `--batch 1`; clients of this process keep one
connection each and ask again as soon as they have an answer. Services take turns, and between them
the model alone: decoding, resizing, forward pass and postprocessing in a loop, as `predict` does
it. Clients and services share the processor, as they do where both run on one machine; the
processor time of the service itself is shown where the system tells it (Linux). Without weights a
model of the catalogue serves with random ones, which costs the same.
"""

from __future__ import annotations

import argparse
import http.client
import io
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image

import detrkit
from detrkit.data.image_bytes import ImageBytes
from detrkit.data.images import read_image
from detrkit.engine.predictor import Predictor


@dataclass
class Load:
    """What some clients saw in one turn."""

    seconds: float
    cpu: float
    latencies: list[float]

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds


def cpu_seconds(process: int) -> float:
    """Processor time of a process so far; NaN where the system does not tell."""
    try:
        line = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return math.nan
    fields = line.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def random_weights(folder: Path, name: str) -> Path:
    """A checkpoint of a model as it is before training."""
    from detrkit.engine.checkpoint import Checkpoint
    from detrkit.engine.parts import image_spec_of
    from detrkit.structures import ClassMap

    cfg = detrkit.load_config(name)
    path = folder / f"{name}.pth"
    Checkpoint(
        model=detrkit.build_model(cfg, seed=0).state_dict(),
        config=cfg.tree,
        config_name=cfg.name,
        class_map=ClassMap.from_names(f"class {i}" for i in range(80)),
        image_spec=image_spec_of(cfg),
    ).save(path)
    return path


def photo() -> bytes:
    """A JPEG of 640 × 480 with some detail."""
    grid = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(grid).resize((640, 480)).save(file, "JPEG", quality=90)
    return file.getvalue()


@contextmanager
def service(weights: Path, *options: str) -> Iterator[tuple[str, int]]:
    """A service as a process: its URL and number."""
    process = subprocess.Popen(
        [sys.executable, "-m", "detrkit", "serve", "-q", "-w", str(weights), "--port", "0",
         "--queue", "1000", *options],
        stdout=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        while http_get(url, "/health") != 200:
            time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(60)


def http_get(url: str, path: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


def asked(url: str, process: int, body: bytes, clients: int, seconds: float) -> Load:
    """Clients that ask for some time."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    def ask() -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        while time.perf_counter() < end:
            started = time.perf_counter()
            connection.request("POST", "/detect", body)
            response = connection.getresponse()
            response.read()
            assert response.status == 200, response.status
            latencies.append(time.perf_counter() - started)
        connection.close()

    started, used = time.perf_counter(), cpu_seconds(process)
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Load(time.perf_counter() - started, cpu_seconds(process) - used, latencies)


def alone(detector: Predictor, body: bytes, batch: int, seconds: float) -> Load:
    """The model in a loop."""
    latencies: list[float] = []
    started, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        turn = time.perf_counter()
        images = [read_image(ImageBytes(body)) for _ in range(batch)]
        detector.runtime.predict(images)
        latencies += [time.perf_counter() - turn] * batch
    return Load(time.perf_counter() - started, time.process_time() - used, latencies)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-w", "--weights", type=Path)
    parser.add_argument("--model", default="dfine_n_coco")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    body = given.image.read_bytes() if given.image else photo()
    with tempfile.TemporaryDirectory() as folder:
        weights = given.weights or random_weights(Path(folder), given.model)
        batched = ("--batch", str(given.batch))
        with service(weights, "--batch", "1") as plain, service(weights, *batched) as shared:
            detector = detrkit.load(weights)
            turns: dict[tuple[str, int, int], list[Load]] = {}
            for _ in range(given.repeats):
                for batch in (1, given.batch):
                    load = alone(detector, body, batch, given.seconds)
                    turns.setdefault(("model alone", batch, 1), []).append(load)
                for clients in given.clients:
                    for batch, (url, process) in ((1, plain), (given.batch, shared)):
                        load = asked(url, process, body, clients, given.seconds)
                        turns.setdefault(("service", batch, clients), []).append(load)
    rates = {key: statistics.median(load.rate for load in loads) for key, loads in turns.items()}
    best = max(rate for (what, _, _), rate in rates.items() if what == "model alone")
    say(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for key, loads in turns.items():
        what, batch, clients = key
        latencies = [seconds for load in loads for seconds in load.latencies]
        p50, p99 = np.percentile(latencies, [50, 99]) * 1000
        cpu = sum(load.cpu for load in loads) / len(latencies) * 1000
        say(
            f"{what:11s}  --batch {batch:2d}  {clients:3d} clients  {rates[key]:6.1f} images/s "
            f"({rates[key] / best:4.0%})  {cpu:5.1f} ms of processor each  "
            f"p50 {p50:5.0f} ms  p99 {p99:5.0f} ms"
        )


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
