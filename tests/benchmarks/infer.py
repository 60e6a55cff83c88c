"""How much of the model's own throughput is left when whole folders and videos are detected on.

    python -m tests.benchmarks.infer --images DIR --video FILE.mp4 [--weights FILE]

Without weights D-FINE-N gets random ones; its best boxes are drawn, so many as `--boxes` says.
Each round runs every way once, one after the other, so that other programs slow all of them alike;
shown is the median of the rounds' ratios. The ways:

    model               forward passes on batches that are ready in memory, and nothing else
    predict             decoded images in memory: resizing, model, postprocessing
    folder: lists       files to detections.jsonl, `detrkit infer --no-draw`
    folder: pictures    the same with a drawn JPEG for each, `detrkit infer`
    video: lists        frames to detections.jsonl
    video: video        the same with an H.264 video, sound included

On a CPU all of this shares the cores with the model, so 1 - ratio is what reading, resizing,
drawing and writing cost in the model's time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

import detrkit
from detrkit.data.files import list_images
from detrkit.engine.parts import build_postprocessor, image_spec_of
from detrkit.engine.predictor import Predictor
from detrkit.engine.runtime import TorchRuntime, choose_device, resized_batch
from detrkit.engine.saving.outputs import Outputs
from detrkit.engine.sources import Source, load_image
from detrkit.structures import ClassMap


def detector_of(options: argparse.Namespace) -> Predictor:
    if options.weights:
        return detrkit.load(options.weights, device=options.device)
    cfg = detrkit.load_config(options.config)
    model: Any = detrkit.build_model(cfg, seed=0).eval()
    runtime = TorchRuntime(
        model.deploy(fold_norms=True),
        build_postprocessor(cfg),
        ClassMap.from_names(f"class {i}" for i in range(cfg.run.num_classes)),
        image_spec_of(cfg),
        device=choose_device(options.device),
    )
    return Predictor(runtime)


def seconds(work: Callable[[], None], clock: Callable[[], float]) -> float:
    began = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - began


class Ways:
    """Each way as a function that handles `count` images."""

    def __init__(self, detector: Predictor, options: argparse.Namespace) -> None:
        self.detector, self.count, self.batch = detector, options.count, options.batch
        self.boxes, self.video = options.boxes, options.video
        self.links = tempfile.TemporaryDirectory()
        found = list_images(Path(options.images))
        self.files = [self._linked(found, number) for number in range(self.count)]
        self.images = [load_image(file) for file in self.files[: self.batch]]
        runtime = detector.runtime
        assert isinstance(runtime, TorchRuntime)
        self.runtime = runtime
        self.ready = runtime.image_spec.normalized(
            resized_batch(runtime.image_spec, self.images).to(runtime.device)
        )

    def _linked(self, found: list[Path], number: int) -> Path:
        """File `number`; each gets a path of its own, since a path is detected on once."""
        file = found[number % len(found)]
        link = Path(self.links.name) / f"{number:06d}{file.suffix}"
        link.symlink_to(file.absolute())
        return link

    def model(self) -> None:
        with torch.inference_mode():
            for _ in range(self.count // self.batch):
                self.runtime.model(self.ready)

    def predict(self) -> None:
        for _ in range(self.count // self.batch):
            self.runtime.predict(self.images)

    def whole(self, source: list[Source], kinds: tuple[str, ...]) -> None:
        """What the command does, from files to files."""
        with tempfile.TemporaryDirectory() as folder:
            frames = self.detector.stream_with_frames(
                source, conf=0.0, max_det=self.boxes, batch=self.batch, limit=self.count
            )
            outputs = Outputs(Path(folder), kinds, self.detector.class_map)
            with closing(frames), outputs:
                for found, frame in frames:
                    outputs.save(found, frame)

    def all(self) -> dict[str, Callable[[], None]]:
        files: list[Source] = list(self.files)
        ways: dict[str, Callable[[], None]] = {
            "model": self.model,
            "predict": self.predict,
            "folder: lists": lambda: self.whole(files, ("jsonl",)),
            "folder: pictures": lambda: self.whole(files, ("jsonl", "pictures")),
        }
        if self.video:
            ways["video: lists"] = lambda: self.whole([self.video], ("jsonl",))
            ways["video: video"] = lambda: self.whole([self.video], ("jsonl", "video"))
        return ways


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", required=True, help="a folder of pictures")
    parser.add_argument("--video", help="of at least --count frames")
    parser.add_argument("--weights")
    parser.add_argument("--config", default="dfine_n_coco")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--boxes", type=int, default=8, help="drawn per image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--cpu-time", action="store_true",
        help="seconds of the processor, all threads together: on a busy machine, --threads 1",
    )  # fmt: skip
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ways = Ways(detector_of(options), options)
    times: dict[str, list[float]] = {name: [] for name in ways.all()}
    for number in range(options.rounds + 1):
        for name, way in ways.all().items():
            taken = seconds(way, time.process_time if options.cpu_time else time.perf_counter)
            if number:  # the first round warms up
                times[name].append(taken)
    sys.stdout.write(
        f"{options.weights or options.config}, {options.device}, {options.threads} threads, "
        f"batch {options.batch}, {options.count} images, median of {options.rounds} rounds\n"
    )
    for name, taken_in in times.items():
        ratios = [pure / own for pure, own in zip(times["model"], taken_in, strict=True)]
        sys.stdout.write(
            f"  {name:18s} {options.count / statistics.median(taken_in):8.1f} images/s "
            f"{statistics.median(ratios):7.1%} of the model\n"
        )


if __name__ == "__main__":
    main()
