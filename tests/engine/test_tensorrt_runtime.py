"""TensorRT's calls, to a stand-in that reads and writes the addresses it is given.

What a real engine answers needs a GPU; what is asked of it does not.
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from detrkit.engine import tensorrt_runtime
from detrkit.engine.runtime import Runtime
from detrkit.errors import UsageError, WeightsError
from tests.engine.exported import ANSWERS, NAMES, Exportable, metadata, torch_runtime
from tests.engine.test_artefact_runtimes import assert_same, photographs

DATA_TYPES = {"images": "FLOAT", "orig_target_sizes": "INT64", "labels": "INT64"}
SHAPES = {"labels": (30,), "boxes": (30, 4), "scores": (30,)}


class Context:
    """Computes with PyTorch what lies at the addresses of the inputs."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name in NAMES
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert set(self.shapes) == set(NAMES)  # else TensorRT does not know yet
        return (self.shapes["images"][0], *SHAPES[name])

    def execute_async_v3(self, stream: int) -> bool:
        images = self._at("images", self.shapes["images"], ctypes.c_float)
        sizes = self._at("orig_target_sizes", self.shapes["orig_target_sizes"], ctypes.c_int64)
        with torch.no_grad():
            found = Exportable()(torch.from_numpy(images), torch.from_numpy(sizes))
        for name, value in zip(ANSWERS, found, strict=True):
            kind = ctypes.c_int64 if name == "labels" else ctypes.c_float
            self._at(name, tuple(value.shape), kind)[:] = value.numpy()
        return True

    def _at(self, name: str, shape: tuple[int, ...], kind: Any) -> Any:
        array = (kind * int(np.prod(shape))).from_address(self.addresses[name])
        return np.ctypeslib.as_array(array).reshape(shape)


class Engine:
    """One to four images of 64×96."""

    num_io_tensors = 5
    names = (*NAMES, *ANSWERS)

    def create_execution_context(self) -> Context:
        return Context()

    def get_tensor_name(self, number: int) -> str:
        return self.names[number]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in NAMES else "output"

    def get_tensor_dtype(self, name: str) -> str:
        return DATA_TYPES.get(name, "FLOAT")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 3, -1, -1)

    def get_tensor_profile_shape(self, name: str, profile: int) -> tuple[tuple[int, ...], ...]:
        return (1, 3, 64, 96), (2, 3, 64, 96), (4, 3, 64, 96)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """TensorRT, and a "GPU" that is the CPU."""
    engine: list[Any] = [Engine()]
    kinds = {name: name for name in ("FLOAT", "HALF", "BF16", "INT32", "INT64")}
    trt = SimpleNamespace(
        __version__="10.9.0",
        init_libnvinfer_plugins=lambda logger, namespace: True,
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda content: engine[0]),
        TensorIOMode=SimpleNamespace(INPUT="input"),
        DataType=SimpleNamespace(**kinds),
        engine=engine,
    )
    trt.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    monkeypatch.setattr(tensorrt_runtime, "_tensorrt", lambda: trt)
    monkeypatch.setattr(tensorrt_runtime, "_gpu", lambda device: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(cuda_stream=7))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "none")
    return trt


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "best.engine").write_bytes(b"engine")
    (tmp_path / "best.json").write_text(metadata().to_json(), encoding="utf-8")
    return tmp_path / "best.engine"


def test_same_as_the_checkpoint(library: SimpleNamespace, path: Path) -> None:
    images = photographs((50, 70), (64, 96), (33, 200), (20, 20), (90, 40))  # two calls
    runtime = Runtime.open(path)
    assert_same(runtime.predict(images), torch_runtime().predict(images))
    assert_same(runtime.predict(images[:1]), torch_runtime().predict(images[:1]))


def test_engines_of_others(library: SimpleNamespace, path: Path) -> None:
    path.with_suffix(".json").unlink()
    runtime = Runtime.open(path)
    assert runtime.image_spec.size == (64, 96)
    assert runtime.class_map.names[0] == "person"


def test_mistakes(library: SimpleNamespace, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="only takes images of 64x96"):
        Runtime.open(path, size=(128, 96))
    monkeypatch.setattr(Context, "execute_async_v3", lambda self, stream: False)
    with pytest.raises(WeightsError, match="failed to compute"):
        Runtime.open(path).predict(photographs((64, 96)))
    monkeypatch.setattr(Engine, "names", ("images", "a", "b", "c", "d"))
    with pytest.raises(WeightsError, match="not those of the authors"):
        Runtime.open(path)
    library.engine[0] = None
    with pytest.raises(WeightsError, match=r"another version than TensorRT 10\.9"):
        Runtime.open(path)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="PyTorch finds none"):
        tensorrt_runtime._gpu(None)
    for device in ("cpu", "quantum"):
        with pytest.raises(UsageError, match=f"not `{device}`"):
            tensorrt_runtime._gpu(device)
