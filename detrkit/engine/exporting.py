"""From weights to files that run elsewhere, each of them checked: `detrkit export`.

A file gets its name only when it has answered like the checkpoint. Until then, and for good where
it does not, it is called `NAME.unverified.…`; an older file of that name stays.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urldefrag, urlparse

import torch

from detrkit.config import Config
from detrkit.engine.download import is_url
from detrkit.engine.evaluation import EvaluationOf, evaluate_weights
from detrkit.engine.evaluator import Progress
from detrkit.engine.export_images import calibration_batches, pictures_to_compare
from detrkit.engine.parts import build_postprocessor
from detrkit.engine.raw_heads import raw_runtime
from detrkit.engine.runtime import Runtime, TorchRuntime
from detrkit.engine.verification import Tolerance, Verification, compare, detections_of
from detrkit.engine.weights import LoadedDetector, open_detector
from detrkit.errors import UsageError, WeightsError
from detrkit.export.graph import DetectionGraph, InputShape, exportable
from detrkit.export.metadata import Metadata, Precision
from detrkit.export.onnx import OPSET, describe, to_onnx, trace, write_onnx
from detrkit.export.openvino import require_openvino, write_openvino
from detrkit.export.tensorrt import EngineNotBuilt, EngineOptions, build_engine
from detrkit.export.torch_export import write_torch_export
from detrkit.export.torchscript import write_torchscript
from detrkit.files import cannot_write, make_folder
from detrkit.models.detector import Detector
from detrkit.models.postprocess import PostProcessor

if TYPE_CHECKING:
    from onnx import ModelProto

    from detrkit.export.int8 import Images

Format = Literal["onnx", "openvino", "torchscript", "torch_export", "tensorrt"]

#: Ending of each format's file. TensorRT is last: where it is missing, the others are there.
ENDINGS: dict[Format, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torchscript": ".torchscript",
    "torch_export": ".pt2",
    "tensorrt": ".engine",
}

#: What stands beside a file and belongs to it.
_COMPANIONS = {".xml": ".bin", ".engine": ".json"}


@dataclass(frozen=True)
class ExportOptions:
    """What to export, and how.

    Attributes:
        formats: the files to write.
        precision: fp32, fp16, bf16 (TensorRT) or int8.
        size: (h, w) of the input; None: that of the weights.
        dynamic_size: take images of any size; `size` is then the usual one.
        batch: images in a call; None: any number.
        raw: the decoder's heads instead of detections.
        opset: of ONNX.
        simplify: with onnxsim.
        data: data set for int8's calibration and for AP.
        split: part of `data` that AP is counted on.
        images: folder or pattern of pictures to compare on.
        calibration_images: how many are taken for int8.
        verify: compare with the checkpoint.
        tolerance: largest difference; None: that of the precision, see `verification`.
        engine: how TensorRT builds.
    """

    formats: Sequence[Format] = ("onnx",)
    precision: Precision = "fp32"
    size: tuple[int, int] | None = None
    dynamic_size: bool = False
    batch: int | None = None
    raw: bool = False
    opset: int = OPSET
    simplify: bool = True
    data: str | Path | None = None
    split: str | None = None
    images: str | Path | None = None
    calibration_images: int = 128
    verify: bool = True
    tolerance: float | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        programs = [f for f in self.formats if f in ("torchscript", "torch_export")]
        if self.precision != "fp32" and programs:
            raise UsageError(
                f"{self.precision} is for ONNX, OpenVINO and TensorRT, not for {programs[0]}",
                hint="export that one in another run, without --half and --int8",
            )
        if self.precision == "bf16" and set(self.formats) != {"tensorrt"}:
            raise UsageError("--bf16 is for TensorRT alone", hint="fp16 for the others: --half")
        if self.precision == "int8" and self.data is None:
            raise UsageError(
                "--int8 needs images to calibrate on", hint="name a data set: --data DIR"
            )
        if self.dynamic_size and "torchscript" in self.formats:
            raise UsageError(
                "a TorchScript trace has one size", hint="leave --dynamic-size or --torchscript out"
            )
        if self.dynamic_size and self.precision == "int8":
            raise UsageError("int8 is calibrated for one size", hint="leave --dynamic-size out")
        if self.calibration_images < 1:
            raise UsageError("--calibration-images must be at least 1")
        if self.tolerance is not None and not 0 <= self.tolerance <= 1:
            raise UsageError(f"--tolerance must lie between 0 and 1, got {self.tolerance}")


@dataclass(frozen=True)
class Exported:
    """One file that was written.

    Attributes:
        format: of it.
        path: of it; what belongs to it stands beside.
        metadata: what it says of itself.
        shape: which images it takes.
        bytes: of it and what belongs to it.
        verification: how it compares; None where that was not wanted.
    """

    format: Format
    path: Path
    metadata: Metadata
    shape: InputShape
    bytes: int
    verification: Verification | None


def export_weights(
    weights: str | Path,
    options: ExportOptions | None = None,
    *,
    config: str | Path | Config | None = None,
    output: str | Path | None = None,
    progress: Progress | None = None,
) -> Iterator[Exported]:
    """Exports weights; each file comes when it is written and verified.

    Args:
        weights: a checkpoint by path or URL.
        options: what and how; default an ONNX file in float32.
        config: for weights that carry none and are not recognised.
        output: a file, or a folder; default beside the weights.
        progress: called while AP is counted.

    Raises:
        WeightsError: the weights cannot be opened; or a file answers differently, and is then
            called `NAME.unverified.…`.
        EngineNotBuilt: TensorRT or a GPU is missing; all other files are written.
        DetrkitError: a file cannot be written.
    """
    options = options or ExportOptions()
    if "openvino" in options.formats:
        require_openvino(options.precision == "int8")
    loaded = open_detector(weights, config)
    if not isinstance(loaded.model, Detector):
        raise WeightsError(f"{weights}: {type(loaded.model).__name__} is no detector to export")
    paths = _paths(weights, options, output)
    yield from _Export(weights, loaded, options, paths, progress).run()


class _Export:
    """One call of `export_weights`."""

    def __init__(
        self,
        weights: str | Path,
        loaded: LoadedDetector,
        options: ExportOptions,
        paths: dict[Format, Path],
        progress: Progress | None,
    ) -> None:
        assert isinstance(loaded.model, Detector)
        self.weights = weights
        self.options = options
        self.paths = paths
        self.progress = progress
        spec = loaded.image_spec
        self.spec = replace(spec, size=options.size or spec.size)
        self.loaded = replace(loaded, image_spec=self.spec)
        self.shape = InputShape(
            self.spec.size, self.spec.in_channels, options.batch, options.dynamic_size
        )
        self.metadata = Metadata(
            self.spec,
            loaded.class_map,
            loaded.config.tree,
            options.precision,
            "raw" if options.raw else "detections",
        )
        postprocessor = build_postprocessor(loaded.config)
        assert isinstance(postprocessor, PostProcessor)
        model = exportable(loaded.model, self.shape, pieces=options.precision == "fp32")
        self.graph = DetectionGraph(model, None if options.raw else postprocessor)

    def run(self) -> Iterator[Exported]:
        """The files, one after the other."""
        for kind in ENDINGS:
            if kind in self.paths:
                yield self._exported(kind, self.paths[kind])

    def _exported(self, kind: Format, path: Path) -> Exported:
        unverified = path.with_suffix(f".unverified{path.suffix}")
        if kind == "tensorrt":
            self._write_engine(unverified, path)
        else:
            self._write(kind, unverified)
        verification = None
        if self.options.verify:
            verification = self._verified(kind, unverified)
            if not verification.passed:
                raise WeightsError(
                    f"{unverified} does not answer like {self.weights}: {verification.describe()}",
                    hint=_advice(self.options.precision),
                )
        _rename(unverified, path)
        files = [path, *(p for p in [_companion(path)] if p is not None)]
        size = sum(file.stat().st_size for file in files)
        return Exported(kind, path, self.metadata, self.shape, size, verification)

    def _write(self, kind: Format, path: Path) -> None:
        if kind == "onnx":
            write_onnx(self._described(self._in_precision(symmetric=False)), path)
        elif kind == "openvino":
            batches = self._calibration() if self.options.precision == "int8" else None
            write_openvino(self._onnx(), path, self.metadata, batches)
        elif kind == "torchscript":
            write_torchscript(self.graph, self.shape, path, self.metadata)
        else:
            write_torch_export(self._program(), path, self.metadata)

    def _write_engine(self, path: Path, final: Path) -> None:
        """The ONNX file first: it is there whatever becomes of the engine."""
        precision = self.options.precision
        named = f"{final.stem}_tensorrt" if precision == "int8" else final.stem
        onnx = final.with_name(f"{named}.onnx")
        if self.paths.get("onnx") != onnx:
            write_onnx(self._described(self._in_precision(symmetric=True)), onnx)
        try:
            build_engine(onnx, path, self.shape, self.metadata, self.options.engine)
        except EngineNotBuilt as error:  # the command is to name the file as it shall be called
            error.hint = (error.hint or "").replace(str(path), str(final))
            raise

    def _program(self) -> torch.export.ExportedProgram:
        if not hasattr(self, "_traced"):
            self._traced = trace(self.graph, self.shape)
        return self._traced

    def _onnx(self) -> ModelProto:
        """In float32; made once."""
        if not hasattr(self, "_model"):
            self._model = to_onnx(
                self._program(),
                self.graph,
                opset=self.options.opset,
                simplify=self.options.simplify,
            )
        return self._model

    def _in_precision(self, *, symmetric: bool) -> ModelProto:
        from detrkit.export.half import halved
        from detrkit.export.int8 import quantized

        precision, model = self.options.precision, self._onnx()
        if precision == "int8":
            return quantized(model, self._calibration(), symmetric=symmetric)
        return model if precision == "fp32" else halved(model, precision)

    def _described(self, model: ModelProto) -> ModelProto:
        describe(model, self.metadata)
        return model

    def _calibration(self) -> Iterator[Images]:
        assert self.options.data is not None
        count, batch = self.options.calibration_images, self.options.batch
        return calibration_batches(self.options.data, self.spec, count, batch)

    def _verified(self, kind: Format, path: Path) -> Verification:
        tolerance = Tolerance.of(self.options.precision, self.options.tolerance)
        if self.options.data is not None and not self.options.raw:
            return self._verified_on_data(kind, path, tolerance)
        images, source = pictures_to_compare(
            self.spec, self.options.images, self.options.data, self.options.split
        )
        reference = TorchRuntime.of(self.loaded)
        if self.options.raw:
            postprocessor = build_postprocessor(self.loaded.config)
            candidate: Runtime = raw_runtime(path, postprocessor, self.metadata, self.options.batch)
        else:
            candidate = Runtime.open(path, device=_device(kind))
        wanted = detections_of(reference, images)
        return compare(wanted, detections_of(candidate, images), tolerance, source)

    def _verified_on_data(self, kind: Format, path: Path, tolerance: Tolerance) -> Verification:
        """Both measured on the data set; the checkpoint once for all files."""
        if not hasattr(self, "_of_checkpoint"):
            self._of_checkpoint = self._measured(self.weights, "cpu", self.loaded.config)
        wanted, given = self._of_checkpoint, self._measured(path, _device(kind))
        result = compare(wanted.result.detections, given.result.detections, tolerance, wanted.data)
        return replace(
            result,
            ap=given.result.metrics.values["AP"],
            ap_checkpoint=wanted.result.metrics.values["AP"],
        )

    def _measured(
        self, weights: str | Path, device: str, config: Config | None = None
    ) -> EvaluationOf:
        return evaluate_weights(
            weights,
            data=self.options.data,
            split=self.options.split,
            config=config,
            device=device,
            size=self.spec.size,
            progress=self.progress,
        )


def _paths(
    weights: str | Path, options: ExportOptions, output: str | Path | None
) -> dict[Format, Path]:
    """Where each file goes; its folder is made."""
    if not options.formats:
        raise UsageError("name a format to export to")
    given = Path(output).expanduser() if output is not None else None
    stem = Path(urlparse(urldefrag(str(weights)).url).path).stem or "model"
    if options.precision != "fp32":
        stem += f"_{options.precision}"
    if options.raw:
        stem += "_raw"
    if given is not None and given.suffix.lower() in ENDINGS.values():
        kinds = [kind for kind in options.formats if ENDINGS[kind] == given.suffix.lower()]
        if len(options.formats) != 1 or not kinds:
            raise UsageError(
                f"--output {given} does not fit the formats {', '.join(options.formats)}",
                hint="name a folder, or one format and a file with its ending",
            )
        folder, stem = given.parent, given.stem
    elif given is not None:
        folder = given
    else:
        folder = Path() if is_url(str(weights)) else Path(weights).expanduser().parent
    make_folder(folder)
    if not os.access(folder, os.W_OK):  # before minutes of work, not after them
        raise cannot_write(folder / stem, PermissionError(errno.EACCES, "no permission"))
    return {kind: folder / f"{stem}{ENDINGS[kind]}" for kind in options.formats}


def _companion(path: Path) -> Path | None:
    """The file that belongs to another, if one does."""
    ending = _COMPANIONS.get(path.suffix)
    return path.with_suffix(ending) if ending else None


def _rename(source: Path, target: Path) -> None:
    """Gives a file, and what belongs to it, its name."""
    pairs = [(_companion(source), _companion(target)), (source, target)]
    for old, new in pairs:
        if old is not None and new is not None:
            try:
                os.replace(old, new)
            except OSError as error:
                raise cannot_write(new, error) from error


def _device(kind: Format) -> str:
    return "cuda" if kind == "tensorrt" else "cpu"


def _advice(precision: Precision) -> str:
    if precision == "int8":
        return (
            "more or other images to calibrate on (--calibration-images), or --half; what you "
            "accept is --tolerance"
        )
    if precision == "fp32":
        return "--tolerance says how much is accepted; please report it with the model's config"
    return "export in float32, or accept more with --tolerance"
