"""Detectors in every runtime against the authors' eager forward, in one run.

    python -m tests.benchmarks.inference [CONFIG …]
    python -m tests.benchmarks.inference --dfine PATH/TO/D-FINE --deimv2 PATH/TO/DEIMv2

The yardstick is the forward pass that the authors' repositories measure: their model and
postprocessor after `deploy()`, float32, PyTorch's default memory format. Without a checkout ours
stands in: the same modules, deployed as theirs are. Against it: our deployed model as `infer` runs
it, in float32, with `--half` and (with `--compile`) with `--compile`, the exported ONNX file in
ONNX Runtime, and, where it is installed, OpenVINO. One image of the
config's size, two threads, random weights whose norms and affine blocks are no identities; all take
turns, so that other programs slow all alike. Printed are medians, fastest, and the ratio of the
medians to the yardstick. On a busy machine `--threads 1 --clock cpu` counts the time that was
computed, not the time that passed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detrkit.config import Config, load_config
from detrkit.engine.amp import cpu_computes_bf16
from detrkit.engine.parts import build_model, build_postprocessor
from detrkit.engine.runtime import compiled, half_precision
from detrkit.export.graph import DetectionGraph, InputShape, exportable
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


def plain(model: Detector) -> Detector:
    """Deployed as the authors deploy theirs, in PyTorch's memory format."""
    return model.deploy(plain=True)


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


def compare(name: str, args: argparse.Namespace, folder: Path) -> None:
    cfg = load_config(name)
    assert cfg.run.eval_spatial_size is not None
    height, width = cfg.run.eval_spatial_size
    model, postprocessor = detector_of(cfg), build_postprocessor(cfg)
    assert isinstance(postprocessor, PostProcessor)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, height, width, generator=generator)
    sizes = torch.tensor([[width, height]])
    shape = InputShape((height, width))
    graph = DetectionGraph(exportable(model, shape), postprocessor)
    path = folder / f"{name}.onnx"
    write_onnx(to_onnx(trace(graph, shape), graph), path)

    eager = DetectionGraph(DefaultFormat(plain(model)), postprocessor).eval()  # type: ignore[arg-type]
    sides: dict[str, Forward | None] = {}
    checkout = args.deimv2 if name.startswith("deimv2") else args.dfine
    if checkout:
        sides["authors' code"] = authors(checkout, name, model.state_dict(), images, sizes)
    deployed = model.deploy(fold_norms=True)
    usual = ours(deployed, postprocessor, images, sizes)
    sides |= {"ours, deployed alike": partial(eager, images, sizes), "ours": usual}
    if cpu_computes_bf16():
        sides["ours, half"] = halved(deployed, usual)
    if args.compile:
        again = ours(compiled(deployed, torch.device("cpu")), postprocessor, images, sizes)  # type: ignore[arg-type]
        sides["ours, compiled"] = again
    sides |= {
        "ONNX Runtime": onnx_runtime(path, images, sizes, args.threads),
        "OpenVINO, f32": openvino(path, images, sizes, args.threads, "f32"),
        "OpenVINO, bf16": openvino(path, images, sizes, args.threads, "bf16"),
    }
    if args.other and name == CONFIGS[2]:
        sides["the authors' .onnx"] = onnx_runtime(args.other, images, sizes, args.threads)
    forwards = {label: forward for label, forward in sides.items() if forward is not None}
    times: dict[str, list[float]] = {label: [] for label in forwards}
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    with torch.inference_mode():
        for turn in range(args.repeats + args.warmup):
            for label, forward in forwards.items():
                started = clock()
                forward()
                if turn >= args.warmup:
                    times[label].append(clock() - started)
    sys.stdout.write(f"{name}: {height} × {width}\n")
    slowest = statistics.median(next(iter(times.values())))
    fastest = min(next(iter(times.values())))
    for label, measured in times.items():
        median, best = statistics.median(measured), min(measured)
        sys.stdout.write(
            f"  {label:24}{median * 1e3:8.1f} ms {slowest / median:6.2f} ×   "
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
    torch.set_num_threads(args.threads)
    np.random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.configs:
            compare(name, args, Path(folder))


if __name__ == "__main__":
    main()
