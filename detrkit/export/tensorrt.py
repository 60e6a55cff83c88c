"""TensorRT engines, built from the ONNX file through the `tensorrt` package.

The network is strongly typed: TensorRT computes each operator in the precision that the file
names, so that fp16, bf16 and int8 engines keep the same operators in float32 as the ONNX files
(`detrkit.export.half`, `detrkit.export.int8`). An engine holds code for one kind of GPU and one
version of TensorRT; its description stands beside it in `NAME.json`.

Written against the API of TensorRT 10 and not run here for want of a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detrkit.errors import DetrkitError, WeightsError
from detrkit.export.graph import InputShape
from detrkit.export.metadata import Metadata
from detrkit.files import write_bytes


class EngineNotBuilt(DetrkitError):
    """TensorRT or a GPU is missing; the ONNX file is there, and the hint says how to go on."""

    exit_code = 6


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built.

    Attributes:
        most: images in a call at most, where the file takes any number; tuned for half of it.
        workspace: GiB of GPU memory that kernels may use; None: all there is.
        timing_cache: file that keeps what was measured, read and written; None: beside the engine.
    """

    most: int = 8
    workspace: float | None = None
    timing_cache: Path | None = None


Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def profile_of(shape: InputShape, most: int = 8) -> dict[str, Shapes]:
    """Input -> smallest, usual and largest shape.

    Args:
        shape: of the file.
        most: images in a call at most, where it takes any number.
    """
    counts = (shape.batch,) * 3 if shape.batch else (1, max(1, most // 2), most)
    h, w = shape.size
    sizes = [(h, w)] * 3
    if shape.dynamic_size:  # from half the size to one and a half times it
        sizes = [_multiples(h, w, 0.5), (h, w), _multiples(h, w, 1.5)]
    images = [(n, shape.channels, *size) for n, size in zip(counts, sizes, strict=True)]
    return {
        "images": (images[0], images[1], images[2]),
        "orig_target_sizes": ((counts[0], 2), (counts[1], 2), (counts[2], 2)),
    }


def _multiples(h: int, w: int, factor: float) -> tuple[int, int]:
    from detrkit.export.graph import STRIDE

    near = [max(STRIDE, round(side * factor / STRIDE) * STRIDE) for side in (h, w)]
    return near[0], near[1]


def trtexec(
    onnx: Path, engine: Path, shape: InputShape, options: EngineOptions, *, raw: bool = False
) -> str:
    """The command that builds the same engine with NVIDIA's own tool."""
    parts = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}", "--stronglyTyped"]
    if shape.batch is None or shape.dynamic_size:
        for name, column in (("min", 0), ("opt", 1), ("max", 2)):
            values = ",".join(
                f"{key}:{'x'.join(map(str, shapes[column]))}"
                for key, shapes in profile_of(shape, options.most).items()
                if key == "images" or not raw
            )
            parts.append(f"--{name}Shapes={values}")
    if options.workspace is not None:
        parts.append(f"--memPoolSize=workspace:{round(options.workspace * 1024)}M")
    parts.append(f"--timingCacheFile={_cache_of(engine, options)}")
    return " ".join(f"'{part}'" if " " in part else part for part in parts)


def build_engine(
    onnx: Path, engine: Path, shape: InputShape, metadata: Metadata, options: EngineOptions
) -> None:
    """Builds an engine for this machine's GPU, which takes minutes, and writes it.

    Args:
        onnx: the file to build from, in the precision that is wanted.
        engine: the file to write; `.json` beside it gets the description.
        shape: which images the ONNX file takes.
        metadata: the description.
        options: how to build.

    Raises:
        EngineNotBuilt: TensorRT is not installed, or PyTorch finds no GPU.
        WeightsError: TensorRT cannot build it; says what it says.
    """
    line = trtexec(onnx, engine, shape, options, raw=metadata.outputs == "raw")
    trt = _tensorrt(onnx, line)
    logger = trt.Logger(trt.Logger.ERROR)
    trt.init_libnvinfer_plugins(logger, "")
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(1 << int(typed) if typed is not None else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx.read_bytes()):
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise WeightsError(
            f"TensorRT {trt.__version__} does not read {onnx}: {'; '.join(errors[:3])}",
            hint="a newer TensorRT may; or export with a lower --opset",
        )
    config = builder.create_builder_config()
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace * 2**30))
    profile = builder.create_optimization_profile()
    shapes = profile_of(shape, options.most)
    for i in range(network.num_inputs):
        name = network.get_input(i).name
        profile.set_shape(name, *shapes[name])
    config.add_optimization_profile(profile)
    cache_file = _cache_of(engine, options)
    known = cache_file.read_bytes() if cache_file.is_file() else b""
    cache = config.create_timing_cache(known)
    if known and not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")  # of another GPU or version
        known = b""
    if not known:
        config.set_timing_cache(cache, ignore_mismatch=False)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise WeightsError(
            f"TensorRT {trt.__version__} could not build an engine from {onnx}",
            hint=f"its own tool says more: {line} --verbose",
        )
    measured = config.get_timing_cache()
    if measured is not None:
        content = bytes(measured.serialize())
        write_bytes(cache_file, content)
    engine_bytes = bytes(built)
    text = metadata.to_json().encode()
    write_bytes(engine.with_suffix(".json"), text)
    write_bytes(engine, engine_bytes)


def _tensorrt(onnx: Path, line: str) -> Any:
    """The package, on a machine with a GPU."""
    missing = None
    try:
        import tensorrt
    except ImportError:
        missing = "TensorRT is not installed"
    else:
        if not torch.cuda.is_available():
            missing = "PyTorch finds no NVIDIA GPU"
        else:
            return tensorrt
    raise EngineNotBuilt(
        f"no engine was built: {missing}; the ONNX file is {onnx}",
        hint=f"on a machine with both (pip install 'detrkit[trt]'): {line}",
    )


def _cache_of(engine: Path, options: EngineOptions) -> Path:
    return options.timing_cache or engine.with_name("tensorrt.timing.cache")
