"""Runs TensorRT engines (`.engine`, `.trt`) and the `.json` beside them; TensorRT 10 or newer.

Inputs and outputs are PyTorch's tensors on the GPU: TensorRT writes into their memory. An engine
holds code for one kind of GPU and one version of TensorRT; open only those that you trust.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrkit.data.text import read_text
from detrkit.engine.artefact_runtime import (
    INPUTS,
    OUTPUTS,
    Answer,
    ArtefactRuntime,
    Opened,
    check_names,
)
from detrkit.engine.runtime import RunOptions, choose_device
from detrkit.errors import MissingExtraError, UsageError, WeightsError
from detrkit.export.metadata import Metadata


class TensorRtRuntime(ArtefactRuntime):
    """A detector in TensorRT, on "cuda" or "cuda:N".

    No option counts: an engine's number format was chosen when it was built.
    """

    name = "TensorRT"
    takes_device_tensors = True

    def _open(self, device: str | torch.device | None, options: RunOptions) -> Opened:
        path, trt = self.path, _tensorrt()
        place = _gpu(device)
        with torch.cuda.device(place):
            logger = trt.Logger(trt.Logger.ERROR)
            trt.init_libnvinfer_plugins(logger, "")
            self._runtime = trt.Runtime(logger)  # lives as long as its engine
            self.engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if self.engine is None:
                raise WeightsError(
                    f"{path} is damaged, or was built by another version than TensorRT "
                    f"{trt.__version__}, or for another GPU than "
                    f"{torch.cuda.get_device_name(place)}",
                    hint="build it on this machine: detrkit export --trt",
                )
            self.context = self.engine.create_execution_context()
            self.stream = torch.cuda.Stream(place)
        if self.context is None:
            raise WeightsError(
                f"{path}: TensorRT could not start the engine; most often memory is short",
                hint="close other programs that use the GPU",
            )
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        given = [n for n in names if self.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        check_names(path, given, [name for name in names if name not in given])
        self._types = {name: _torch_type(trt, self.engine.get_tensor_dtype(name)) for name in names}
        self._lock = threading.Lock()  # a context computes one batch at a time
        fewest, _, most = (
            [int(n) for n in shape] for shape in self.engine.get_tensor_profile_shape("images", 0)
        )
        return Opened(
            place,
            [low if low == high else None for low, high in zip(fewest, most, strict=True)],
            _sidecar(path),
            batches=(fewest[0], most[0]),
            sizes=((fewest[2], fewest[3]), (most[2], most[3])),
        )

    def compute(self, images: Tensor, sizes: Tensor) -> Answer:
        with self._lock, torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            given = {
                name: value.to(self.device, self._types[name], non_blocking=True).contiguous()
                for name, value in zip(INPUTS, (images, sizes), strict=True)
            }
            for name, value in given.items():
                self.context.set_input_shape(name, tuple(value.shape))
                self.context.set_tensor_address(name, value.data_ptr())
            found = {}
            for name in (n for n in self._types if n not in given):
                shape = tuple(self.context.get_tensor_shape(name))
                found[name] = torch.empty(shape, dtype=self._types[name], device=self.device)
                self.context.set_tensor_address(name, found[name].data_ptr())
            if not self.context.execute_async_v3(self.stream.cuda_stream):
                raise WeightsError(f"{self.path}: TensorRT failed to compute a batch")
            labels, boxes, scores = (found[name].cpu() for name in OUTPUTS)
        return labels.numpy(), boxes.float().numpy(), scores.float().numpy()


def _tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise MissingExtraError("tensorrt", "trt", "running TensorRT engines") from error
    if int(tensorrt.__version__.split(".")[0]) < 10:
        raise UsageError(
            f"TensorRT {tensorrt.__version__} is too old", hint="pip install 'tensorrt>=10'"
        )
    return tensorrt


def _gpu(device: str | torch.device | None) -> torch.device:
    """The GPU, with its number."""
    wanted = str(device if device is not None else "cuda")
    hint = "use the .onnx file or the checkpoint that the engine was made from"
    if not wanted.startswith("cuda"):
        raise UsageError(f"TensorRT needs an NVIDIA GPU, not `{wanted}`", hint=hint)
    if not torch.cuda.is_available():
        raise UsageError("TensorRT needs an NVIDIA GPU; PyTorch finds none here", hint=hint)
    return choose_device(wanted if ":" in wanted else f"{wanted}:0")


def _torch_type(trt: Any, kind: Any) -> torch.dtype:
    types: dict[Any, torch.dtype] = {
        trt.DataType.FLOAT: torch.float32,
        trt.DataType.HALF: torch.float16,
        trt.DataType.BF16: torch.bfloat16,
        trt.DataType.INT32: torch.int32,
        trt.DataType.INT64: torch.int64,
    }
    return types[kind]


def _sidecar(path: Path) -> Metadata | None:
    """What stands beside an engine, which has no place of its own for it."""
    beside = path.with_suffix(".json")
    return Metadata.from_json(read_text(beside), str(beside)) if beside.is_file() else None
