"""Detectors in every runtime against the authors' eager forward, in one run.

    python -m tests.benchmarks.inference [CONFIG …]
    python -m tests.benchmarks.inference --dfine PATH/TO/D-FINE --deimv2 PATH/TO/DEIMv2

The yardstick is the forward pass that the authors' repositories measure: their model and
postprocessor after `deploy()`, float32, PyTorch's default memory format. Without a checkout ours
stands in: the same modules, deployed as theirs are. Against it: our deployed model as `infer` runs
it, in float32, with `--half` and (with `--compile`) with `--compile`, the exported ONNX file and
the one of 8 bits (`--int8`) in ONNX Runtime, and, where it is installed, OpenVINO. One image of the
config's size, two threads, random weights whose norms and affine blocks are no identities. Each has
a process of its own, ours with the setting of `malloc` that our runtimes make
(`detrkit.engine.allocator`), and all take turns, so that other programs slow all alike. Printed are
medians, fastest, and the ratio of the medians to the yardstick. On a busy machine `--threads 1
--clock cpu` counts the time that was computed, not the time that passed.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.config import Config, load_config
from detrkit.engine.allocator import keep_freed_memory
from detrkit.engine.amp import cpu_computes_bf16
from detrkit.engine.parts import build_model, build_postprocessor
from detrkit.engine.runtime import compiled, half_precision
from detrkit.export.graph import DetectionGraph, InputShape, exportable
from detrkit.export.int8 import quantized
from detrkit.export.onnx import to_onnx, trace, write_onnx
from detrkit.layers.affine import LearnableAffine
from detrkit.models.detector import Detector
from detrkit.models.postprocess import PostProcessor

CONFIGS = (
    "dfine_hgnetv2_n_coco",
    "dfine_hgnetv2_s_coco",
    "deimv2_hgnetv2_atto_coco",
    "deimv2_hgnetv2_n_coco",
)
AUTHORS = "authors' code"
SIDES = (
    AUTHORS,
    "ours, deployed alike",
    "ours",
    "ours, half",
    "ours, compiled",
    "ONNX Runtime",
    "ONNX Runtime, int8",
    "OpenVINO, f32",
    "OpenVINO, bf16",
)
Forward = Callable[[], object]


def detector_of(cfg: Config) -> Detector:
    """Random weights; nothing in it is an identity that an exporter could leave out."""
    model = build_model(cfg, seed=0).eval()
    assert isinstance(model, Detector)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LearnableAffine):
                module.scale.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
            elif isinstance(getattr(module, "running_var", None), Tensor):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.8, 1.2, generator=generator)
    return model


def ours(model: Detector, postprocessor: PostProcessor, images: Tensor, sizes: Tensor) -> Forward:
    """A deployed detector of ours with its postprocessor."""
    graph = DetectionGraph(model, postprocessor).eval()
    return partial(graph, images, sizes)


def halved(model: Detector, forward: Forward) -> Forward:
    """The same in 16 bits."""
    precision = half_precision(next(model.parameters()).device)

    def run() -> object:
        with precision.autocast(torch.device("cpu")):
            return forward()

    return run


class DefaultFormat(nn.Module):
    """Ours turns images to channels-last; this one leaves them.

    Args:
        model: a detector.
    """

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        model = self.model
        return model.decoder(model.encoder(model.backbone(images)), None)


def authors(
    checkout: Path, name: str, weights: dict[str, Tensor], images: Tensor, sizes: Tensor
) -> Forward:
    """The authors' model and postprocessor, with the same weights."""
    package, folder = ("src", "dfine") if (checkout / "src").is_dir() else ("engine", "deimv2")
    before = Path.cwd()
    os.chdir(checkout)
    sys.path.insert(0, str(checkout))
    try:
        core = importlib.import_module(f"{package}.core")
        cfg = core.YAMLConfig(f"configs/{folder}/{name}.yml", HGNetv2={"pretrained": False})
        cfg.model.load_state_dict(weights)
        model, postprocessor = cfg.model.deploy(), cfg.postprocessor.deploy()
    finally:
        os.chdir(before)
        sys.path.remove(str(checkout))
    return lambda: postprocessor(model(images), sizes)


def onnx_runtime(path: Path, images: Tensor, sizes: Tensor, threads: int) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = {"images": images.numpy(), "orig_target_sizes": sizes.numpy()}
    return lambda: session.run(None, given)


def openvino(path: Path, images: Tensor, sizes: Tensor, threads: int, kind: str) -> Forward | None:
    try:
        import openvino as ov
    except ImportError:
        return None
    settings = {"INFERENCE_PRECISION_HINT": kind, "INFERENCE_NUM_THREADS": threads}
    model = ov.Core().compile_model(str(path), "CPU", settings)
    request = model.create_infer_request()
    given = {"images": images.numpy(), "orig_target_sizes": sizes.numpy()}
    return lambda: request.infer(given)


@dataclass(frozen=True)
class Case:
    """What every side computes.

    Attributes:
        name: of the configuration.
        path: its ONNX file.
        checkout: the authors' code.
        threads: of a CPU.
    """

    name: str
    path: Path
    checkout: Path | None
    threads: int

    @property
    def int8_path(self) -> Path:
        """The same in 8 bits, calibrated on the image that is measured."""
        return self.path.with_suffix(".int8.onnx")

    def parts(self) -> tuple[Detector, PostProcessor, Tensor, Tensor]:
        """Model, postprocessor, one image and its size (width, height)."""
        cfg = load_config(self.name)
        assert cfg.run.eval_spatial_size is not None
        height, width = cfg.run.eval_spatial_size
        postprocessor = build_postprocessor(cfg)
        assert isinstance(postprocessor, PostProcessor)
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(1, 3, height, width, generator=generator)
        return detector_of(cfg), postprocessor, images, torch.tensor([[width, height]])

    def export(self) -> None:
        model, postprocessor, images, _ = self.parts()
        shape = InputShape((images.shape[2], images.shape[3]))
        for int8 in (False, True):
            graph = DetectionGraph(exportable(model, shape, pieces=not int8), postprocessor)
            onnx = to_onnx(trace(graph, shape), graph)
            if int8:
                onnx = quantized(onnx, [images.numpy()])
            write_onnx(onnx, self.int8_path if int8 else self.path)

    def forward(self, side: str) -> Forward | None:
        """One of the sides; None where it cannot run here."""
        model, postprocessor, images, sizes = self.parts()
        if side == AUTHORS:
            if self.checkout is None:
                return None
            return authors(self.checkout, self.name, model.state_dict(), images, sizes)
        if side == "ours, deployed alike":
            plain = DefaultFormat(model.deploy(plain=True))
            eager = DetectionGraph(plain, postprocessor).eval()  # type: ignore[arg-type]
            return partial(eager, images, sizes)
        if side.startswith("ours"):
            keep_freed_memory()
            deployed = model.deploy(fold_norms=True)
            if side == "ours, compiled":
                deployed = compiled(deployed, torch.device("cpu"))  # type: ignore[assignment]
            usual = ours(deployed, postprocessor, images, sizes)
            if side != "ours, half":
                return usual
            return halved(deployed, usual) if cpu_computes_bf16() else None
        if side.startswith("OpenVINO"):
            return openvino(self.path, images, sizes, self.threads, side.split()[-1])
        path = self.int8_path if side.endswith("int8") else self.path
        return onnx_runtime(path, images, sizes, self.threads)


def serve(case: Case, side: str, clock: str, pipe: Connection) -> None:
    """A process: says whether it can run, then takes the time of a pass for every True."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(case.threads)
    forward = case.forward(side)
    pipe.send(forward is not None)
    tick = time.process_time if clock == "cpu" else time.perf_counter
    with torch.inference_mode():
        while forward is not None and pipe.recv():
            started = tick()
            forward()
            pipe.send(tick() - started)


def compare(name: str, args: argparse.Namespace, folder: Path) -> None:
    checkout = args.deimv2 if name.startswith("deimv2") else args.dfine
    case = Case(name, folder / f"{name}.onnx", checkout, args.threads)
    case.export()
    cases = {side: case for side in SIDES if args.compile or side != "ours, compiled"}
    if args.other and name == CONFIGS[2]:
        cases["the authors' .onnx"] = replace(case, path=args.other)
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for side, its_case in cases.items():
        here, there = spawn.Pipe()
        spawn.Process(target=serve, args=(its_case, side, args.clock, there), daemon=True).start()
        if here.recv():
            pipes[side] = here
    times: dict[str, list[float]] = {side: [] for side in pipes}
    for turn in range(args.repeats + args.warmup):
        for side, pipe in pipes.items():
            pipe.send(True)
            took = pipe.recv()
            if turn >= args.warmup:
                times[side].append(took)
            time.sleep(0.02)  # threads that spin for more work stop
    for pipe in pipes.values():
        pipe.send(False)
    height, width = load_config(name).run.eval_spatial_size or (0, 0)
    sys.stdout.write(f"{name}: {height} × {width}\n")
    slowest = statistics.median(next(iter(times.values())))
    fastest = min(next(iter(times.values())))
    for side, measured in times.items():
        median, best = statistics.median(measured), min(measured)
        sys.stdout.write(
            f"  {side:24}{median * 1e3:8.1f} ms {slowest / median:6.2f} ×   "
            f"fastest {best * 1e3:8.1f} ms {fastest / best:6.2f} ×\n"
        )
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="*", default=CONFIGS, metavar="CONFIG")
    parser.add_argument("--dfine", type=Path, help="checkout of D-FINE")
    parser.add_argument("--deimv2", type=Path, help="checkout of DEIMv2")
    parser.add_argument("--other", type=Path, help="an .onnx of DEIMv2-Atto by the authors")
    parser.add_argument("--compile", action="store_true", help="takes minutes")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in args.configs:
            compare(name, args, Path(folder))


if __name__ == "__main__":
    main()
