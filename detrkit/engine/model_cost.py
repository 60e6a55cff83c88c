"""What a model that was evaluated costs: bytes on disk, parameters, operations."""

from __future__ import annotations

import math
from pathlib import Path

from detrkit.engine.download import locate
from detrkit.engine.inspect import inspect_model
from detrkit.engine.onnx_runtime import OnnxRuntime
from detrkit.engine.runtime import Runtime, TorchRuntime
from detrkit.metrics.schema import ModelJson


def model_cost(weights: str | Path, runtime: Runtime) -> ModelJson:
    """Size, parameters and FLOPs; null where a kind of file does not say.

    Args:
        weights: what the runtime was opened from.
        runtime: of them.
    """
    file = locate(weights)
    cost: ModelJson = {
        "file_bytes": file_bytes(file),
        "parameters": None,
        "flops": None,
        "macs": None,
        "input": [1, runtime.image_spec.in_channels, *runtime.image_spec.size],
    }
    if isinstance(runtime, TorchRuntime):
        report = inspect_model(runtime.model, runtime.image_spec.size)
        cost["parameters"] = report.deployed
        cost["flops"], cost["macs"] = report.flops.calflops, report.flops.macs
    elif isinstance(runtime, OnnxRuntime):
        cost["parameters"], _ = _onnx_weights(file)
    return cost


def file_bytes(file: Path) -> int | None:
    """Of a model's file and what belongs to it: external data, OpenVINO's `.bin`."""
    if not file.is_file():
        return None
    beside = 0
    if file.suffix.lower() == ".onnx":
        _, beside = _onnx_weights(file)
    elif file.suffix.lower() == ".xml" and file.with_suffix(".bin").is_file():
        beside = file.with_suffix(".bin").stat().st_size
    return file.stat().st_size + beside


def _onnx_weights(file: Path) -> tuple[int, int]:
    """Numbers in the weights of an ONNX file, and the bytes of its external data."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    weights = onnx.load(str(file), load_external_data=False).graph.initializer
    count = sum(
        math.prod(w.dims) for w in weights if w.data_type in (
            onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16,
            onnx.TensorProto.INT8, onnx.TensorProto.UINT8,
        )
    )  # fmt: skip
    places = {ExternalDataInfo(w).location for w in weights if uses_external_data(w)}
    return count, sum((file.parent / place).stat().st_size for place in places)
