"""Every runtime of exported files answers what the checkpoint answers; bad files are told."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from detrkit.engine.amp import cpu_computes_bf16
from detrkit.engine.artefact_runtime import ArtefactRuntime
from detrkit.engine.runtime import ARTEFACTS, Runtime, compiled
from detrkit.errors import DataError, MissingExtraError, UsageError, WeightsError
from detrkit.export.metadata import Metadata
from detrkit.structures import ClassMap, Detections, ImageSpec
from tests.engine.bright import CLASSES, SPEC, small_detector
from tests.engine.exported import (
    metadata,
    torch_runtime,
    write_exported,
    write_onnx,
    write_openvino,
    write_script,
)

#: Endings of the kinds that can be made and run without a GPU.
KINDS = (".onnx", ".xml", ".torchscript", ".pt2")
LETTERBOX = ImageSpec((64, 96), resize="letterbox", channels="bgr", mean=(0.1, 0.2, 0.3))


def photographs(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes
    ]


def write_all(folder: Path, spec: ImageSpec) -> Path:
    """`best`, as every kind of file."""
    about = metadata(spec)
    write_onnx(folder / "best.onnx", about)
    write_script(folder / "best.torchscript", about)
    write_exported(folder / "best.pt2", about)
    with contextlib.suppress(ImportError):  # its tests are skipped
        write_openvino(folder / "best.xml", folder / "best.onnx", about)
    return folder


@pytest.fixture(scope="module")
def stretched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("stretched"), SPEC)


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("padded"), LETTERBOX)


def opened(folder: Path, kind: str, **options: object) -> Runtime:
    if kind == ".xml":
        pytest.importorskip("openvino")
    return Runtime.open(folder / f"best{kind}", device="cpu", **options)  # type: ignore[arg-type]


def assert_same(found: list[Detections], wanted: list[Detections]) -> None:
    """The same boxes, scores and labels; equal scores may change places."""
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine.orig_size, mine.path) == (theirs.orig_size, theirs.path)
        np.testing.assert_allclose(mine.scores, theirs.scores, atol=1e-5)
        assert (np.diff(mine.scores) <= 0).all()
        order, other = (np.lexsort((*d.boxes_xyxy.round(1).T, d.labels)) for d in (mine, theirs))
        assert mine.labels[order].tolist() == theirs.labels[other].tolist()
        np.testing.assert_allclose(mine.boxes_xyxy[order], theirs.boxes_xyxy[other], atol=2e-2)


class TestSameAsTheCheckpoint:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("sizes", [[(50, 70)], [(64, 96), (33, 200), (301, 77)]])
    def test_stretched(self, stretched: Path, kind: str, sizes: list[tuple[int, int]]) -> None:
        images, paths = photographs(*sizes), [f"{i}.jpg" for i in range(len(sizes))]
        wanted = torch_runtime().predict(images, paths)
        runtime = opened(stretched, kind)
        assert isinstance(runtime, ArtefactRuntime)
        assert runtime.class_map == CLASSES
        assert runtime.image_spec.size == (64, 96)
        assert_same(runtime.predict(images, paths), wanted)
        assert runtime.predict([]) == []

    @pytest.mark.parametrize("kind", KINDS)
    def test_letterbox(self, padded: Path, kind: str) -> None:
        """Pictures whose padded size is no whole number of pixels."""
        images = photographs((50, 71), (333, 97), (7, 400))
        runtime = opened(padded, kind)
        assert runtime.image_spec == LETTERBOX
        assert_same(runtime.predict(images), torch_runtime(LETTERBOX).predict(images))

    @pytest.mark.parametrize("kind", KINDS)
    def test_in_several_threads(self, stretched: Path, kind: str) -> None:
        images = photographs(*[(40 + i, 60) for i in range(8)])
        runtime = opened(stretched, kind)
        wanted = [runtime.predict([image])[0] for image in images]
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda image: runtime.predict([image])[0], images))
        assert_same(found, wanted)

    def test_a_fixed_batch(self, tmp_path: Path) -> None:
        write_onnx(tmp_path / "best.onnx", metadata(), batch=2)
        images = photographs((50, 70), (20, 30), (64, 96))
        wanted = torch_runtime().predict(images)
        assert_same(opened(tmp_path, ".onnx").predict(images), wanted)
        if importlib.util.find_spec("openvino"):
            write_openvino(tmp_path / "best.xml", tmp_path / "best.onnx", metadata())
            assert_same(opened(tmp_path, ".xml").predict(images), wanted)

    @pytest.mark.skipif(not cpu_computes_bf16(), reason="this processor has no bf16")
    def test_half_precision_is_near(self, stretched: Path, tmp_path: Path) -> None:
        small_detector(tmp_path / "best.pth")
        images = photographs((64, 96))
        for folder, kind in ((tmp_path, ".pth"), (stretched, ".xml")):
            (exact,) = opened(folder, kind).predict(images)
            (found,) = opened(folder, kind, half=True).predict(images)
            np.testing.assert_allclose(found.scores, exact.scores, atol=0.05)

    def test_threads(self, stretched: Path) -> None:
        before = torch.get_num_threads()
        images = photographs((64, 96))
        try:
            wanted = torch_runtime().predict(images)
            for kind in KINDS:
                assert_same(opened(stretched, kind, threads=1).predict(images), wanted)
        finally:
            torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_compiled() -> None:
    images = photographs((50, 70), (64, 96))
    wanted = torch_runtime().predict(images)
    runtime = torch_runtime()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        runtime.model = compiled(runtime.model, runtime.device)
        assert_same(runtime.predict(images), wanted)
        assert_same(runtime.predict(images[:1]), wanted[:1])


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_found() -> str:
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none_found)
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler"):
        compiled(torch_runtime().model, torch.device("cpu"))


class TestBadInputs:
    @pytest.mark.parametrize("kind", KINDS)
    def test_images_of_other_channels(self, stretched: Path, kind: str) -> None:
        runtime = opened(stretched, kind)
        for image in (torch.zeros(1, 9, 9), torch.zeros(9, 9), torch.zeros(3, 0, 9)):
            with pytest.raises(DataError, match=r"takes \(3, height, width\)"):
                runtime.predict([image])

    @pytest.mark.parametrize("kind", KINDS)
    def test_another_size(self, stretched: Path, kind: str) -> None:
        with pytest.raises(UsageError, match="only takes images of 64x96"):
            opened(stretched, kind, size=(96, 96))
        assert opened(stretched, kind, size=(64, 96)).image_spec.size == (64, 96)

    @pytest.mark.parametrize("kind", KINDS)
    def test_damaged_files(self, stretched: Path, kind: str, tmp_path: Path) -> None:
        if kind == ".xml":
            pytest.importorskip("openvino")
        (tmp_path / "best.bin").write_bytes(b"")
        whole = (stretched / f"best{kind}").read_bytes()
        for content in (b"", b"nothing", whole[: len(whole) // 2]):
            (tmp_path / f"best{kind}").write_bytes(content)
            with pytest.raises(WeightsError, match="is damaged or not a"):
                opened(tmp_path, kind)

    @pytest.mark.parametrize("ending", [*ARTEFACTS, ".pth"])
    def test_missing_files(self, ending: str, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="not found"):
            Runtime.open(tmp_path / f"absent{ending}")

    @pytest.mark.parametrize("kind", [".torchscript", ".pt2"])
    def test_programs_of_others(self, kind: str, tmp_path: Path) -> None:
        write = write_script if kind == ".torchscript" else write_exported
        write(tmp_path / f"best{kind}", None)
        with pytest.raises(WeightsError, match="was not exported by detrkit"):
            opened(tmp_path, kind)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: replace(m, outputs="raw"), "raw heads"),
            (lambda m: replace(m, class_map=ClassMap.from_names(["cat"])), "it has only 1 class"),
        ],
    )
    def test_what_a_file_says_of_itself(
        self, change: Callable[[Metadata], Metadata], message: str, tmp_path: Path
    ) -> None:
        write_script(tmp_path / "best.torchscript", change(metadata()))
        with pytest.raises(WeightsError, match=message):
            opened(tmp_path, ".torchscript").predict(photographs((64, 96)))

    def test_openvino_without_its_weights(self, stretched: Path, tmp_path: Path) -> None:
        pytest.importorskip("openvino")
        (tmp_path / "best.xml").write_bytes((stretched / "best.xml").read_bytes())
        with pytest.raises(WeightsError, match=r"best\.bin is not beside it"):
            opened(tmp_path, ".xml")

    def test_openvino_of_others(self, stretched: Path, tmp_path: Path) -> None:
        pytest.importorskip("openvino")
        write_openvino(tmp_path / "best.xml", stretched / "best.onnx", None)
        assert opened(tmp_path, ".xml").class_map.names[0] == "person"


class TestOptions:
    def test_missing_libraries(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for ending, package in ((".xml", "openvino"), (".engine", "tensorrt")):
            (tmp_path / f"a{ending}").write_bytes(b"x")
            (tmp_path / "a.bin").write_bytes(b"x")
            monkeypatch.setitem(sys.modules, package, None)
            with pytest.raises(MissingExtraError) as error:
                Runtime.open(tmp_path / f"a{ending}")
            assert "pip install 'detrkit[" in (error.value.hint or "")

    def test_providers(self, stretched: Path) -> None:
        images = photographs((64, 96))
        wanted = opened(stretched, ".onnx").predict(images)
        assert_same(opened(stretched, ".onnx", provider="cpu").predict(images), wanted)
        with pytest.raises(UsageError, match="did you mean `tensorrt`"):
            opened(stretched, ".onnx", provider="tensorr")
        with pytest.raises(UsageError, match="runs on GPUs"):
            opened(stretched, ".onnx", provider="cuda")

    def test_a_provider_that_is_not_installed(
        self, stretched: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import onnxruntime

        monkeypatch.setattr(
            onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"]
        )
        with pytest.raises(MissingExtraError) as error:
            opened(stretched, ".onnx", provider="openvino")
        assert "onnxruntime-openvino" in (error.value.hint or "")

    def test_openvino_devices(self, stretched: Path) -> None:
        pytest.importorskip("openvino")
        with pytest.raises(UsageError, match="finds no device `quantum`"):
            opened(stretched, ".xml", provider="quantum")
        with pytest.raises(UsageError, match="does not run on `cuda`"):
            Runtime.open(stretched / "best.xml", device="cuda")

    @pytest.mark.parametrize("kind", KINDS)
    def test_unknown_devices(self, stretched: Path, kind: str) -> None:
        if kind == ".xml":
            pytest.importorskip("openvino")
        with pytest.raises(UsageError, match="`quantum`"):
            Runtime.open(stretched / f"best{kind}", device="quantum")

    def test_what_does_not_apply_is_said(
        self, stretched: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        opened(stretched, ".onnx", half=True)
        opened(stretched, ".torchscript", provider="cuda")
        assert "the option `half` does not apply" in caplog.text
        assert "the option `provider` does not apply" in caplog.text

    def test_half_precision_wants_a_processor_that_has_it(
        self, stretched: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("detrkit.engine.runtime.cpu_computes_bf16", lambda: False)
        small_detector(tmp_path / "best.pth")
        for folder, kind in ((tmp_path, ".pth"), (stretched, ".xml")):
            with pytest.raises(UsageError, match="does not compute in bf16"):
                opened(folder, kind, half=True)

    def test_threads_are_at_least_one(self, stretched: Path) -> None:
        with pytest.raises(UsageError, match="at least 1"):
            opened(stretched, ".onnx", threads=0)
