"""What of TensorRT can be tested without it: shapes, the command, and the calls to a stand-in.

`FakeTensorRT` answers as the documentation says TensorRT 10 does. That an engine is good is not
shown here: it takes a GPU.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from detrkit.errors import WeightsError
from detrkit.export.graph import InputShape
from detrkit.export.metadata import Metadata
from detrkit.export.tensorrt import (
    EngineNotBuilt,
    EngineOptions,
    build_engine,
    profile_of,
    trtexec,
)
from detrkit.structures import ClassMap, ImageSpec

SHAPE = InputShape((64, 96))
METADATA = Metadata(ImageSpec((64, 96)), ClassMap.from_names(["猫"]), precision="fp16")


class FakeTensorRT:
    """The parts of the package that are called; remembers the calls."""

    __version__ = "10.9"
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")

    def __init__(self, *, reads: bool = True, builds: bool = True, cache_fits: bool = True) -> None:
        self.reads, self.builds, self.cache_fits = reads, builds, cache_fits
        self.shapes: dict[str, Any] = {}
        self.flags = self.workspace = self.cache = None

        class Logger:
            ERROR = 1

            def __init__(self, level: int) -> None:
                pass

        self.Logger = Logger

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> None:
        pass

    def Builder(self, logger: Any) -> FakeTensorRT:
        return self

    def create_network(self, flags: int) -> Any:
        self.flags = flags
        names = ["images", "orig_target_sizes"]
        return SimpleNamespace(num_inputs=2, get_input=lambda i: SimpleNamespace(name=names[i]))

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        return SimpleNamespace(
            parse=lambda content: self.reads and content == b"onnx",
            num_errors=1,
            get_error=lambda i: "no such operator",
        )

    def create_builder_config(self) -> FakeTensorRT:
        return self

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.workspace = (pool, size)

    def create_optimization_profile(self) -> Any:
        return SimpleNamespace(
            set_shape=lambda name, low, usual, high: self.shapes.update({name: (low, usual, high)})
        )

    def add_optimization_profile(self, profile: Any) -> None:
        pass

    def create_timing_cache(self, content: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: content + b"+measured", content=content)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.content and not self.cache_fits:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        return b"engine" if self.builds else None


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    (tmp_path / "best.onnx").write_bytes(b"onnx")
    return tmp_path / "best.onnx"


def install(monkeypatch: pytest.MonkeyPatch, fake: FakeTensorRT | None, gpu: bool = True) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)


def build(onnx: Path, **options: Any) -> Path:
    engine = onnx.with_suffix(".engine")
    build_engine(onnx, engine, SHAPE, METADATA, EngineOptions(**options))
    return engine


def test_profiles() -> None:
    assert profile_of(SHAPE, 8) == {
        "images": ((1, 3, 64, 96), (4, 3, 64, 96), (8, 3, 64, 96)),
        "orig_target_sizes": ((1, 2), (4, 2), (8, 2)),
    }
    assert profile_of(InputShape((64, 96), batch=3))["images"] == ((3, 3, 64, 96),) * 3
    assert profile_of(SHAPE, 1)["images"][1] == (1, 3, 64, 96)
    low, usual, high = profile_of(InputShape((640, 480), dynamic_size=True))["images"]
    assert low[2:] == (320, 256)
    assert usual[2:] == (640, 480)
    assert high[2:] == (960, 704)
    assert all(side % 32 == 0 for side in (*low[2:], *high[2:]))


def test_the_command() -> None:
    options = EngineOptions(most=8, workspace=4)
    line = trtexec(Path("my files/best.onnx"), Path("best.engine"), SHAPE, options)
    assert shlex.split(line) == [
        "trtexec",
        "--onnx=my files/best.onnx",
        "--saveEngine=best.engine",
        "--stronglyTyped",
        "--minShapes=images:1x3x64x96,orig_target_sizes:1x2",
        "--optShapes=images:4x3x64x96,orig_target_sizes:4x2",
        "--maxShapes=images:8x3x64x96,orig_target_sizes:8x2",
        "--memPoolSize=workspace:4096M",
        "--timingCacheFile=tensorrt.timing.cache",
    ]
    raw = trtexec(Path("a.onnx"), Path("a.engine"), SHAPE, options, raw=True)
    assert "orig_target_sizes" not in raw
    fixed = trtexec(Path("a.onnx"), Path("a.engine"), InputShape((64, 96), batch=1), options)
    assert "Shapes" not in fixed


@pytest.mark.parametrize("gpu", [True, False])
def test_without_tensorrt_or_gpu_the_way_on_is_named(
    onnx: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    install(monkeypatch, None if gpu else FakeTensorRT(), gpu)
    with pytest.raises(EngineNotBuilt) as error:
        build(onnx)
    assert error.value.exit_code == 6
    assert ("TensorRT is not installed" if gpu else "no NVIDIA GPU") in error.value.message
    assert str(onnx) in error.value.message
    assert f"trtexec --onnx={onnx}" in (error.value.hint or "")


def test_calls_of_a_stand_in(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT()
    install(monkeypatch, fake)
    engine = build(onnx, most=4, workspace=2)
    assert engine.read_bytes() == b"engine"
    beside = engine.with_suffix(".json").read_text(encoding="utf-8")
    assert Metadata.from_json(beside, "x") == METADATA
    assert fake.flags == 1 << 1  # strongly typed: precisions are those of the file
    assert fake.workspace == ("workspace", 2 * 2**30)
    assert fake.shapes == profile_of(SHAPE, 4)
    cache = onnx.with_name("tensorrt.timing.cache")
    assert cache.read_bytes() == b"+measured"
    build(onnx)
    assert cache.read_bytes() == b"+measured+measured"  # what was known is used


def test_a_timing_cache_of_another_gpu_is_made_anew(
    onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FakeTensorRT(cache_fits=False))
    cache = onnx.with_name("other.cache")
    cache.write_bytes(b"other")
    build(onnx, timing_cache=cache)
    assert cache.read_bytes() == b"+measured"


def test_what_tensorrt_says_is_passed_on(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeTensorRT(reads=False))
    with pytest.raises(WeightsError, match="no such operator"):
        build(onnx)
    install(monkeypatch, FakeTensorRT(builds=False))
    with pytest.raises(WeightsError, match="could not build") as error:
        build(onnx)
    assert "--verbose" in (error.value.hint or "")
    assert not onnx.with_suffix(".engine").exists()
