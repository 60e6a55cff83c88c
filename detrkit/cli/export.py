"""`detrkit export`: files for other runtimes, each compared with the checkpoint."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from detrkit.cli.options import Data, InputSize, JsonOut, Output, Split, Weights, WeightsConfig

if TYPE_CHECKING:
    from detrkit.engine.exporting import Exported, Format
    from detrkit.export.metadata import Precision

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045

_format = partial(typer.Option, rich_help_panel="Formats (several at once)")
_input = partial(typer.Option, rich_help_panel="Input and output")
_precision = partial(typer.Option, rich_help_panel="Precision")
_check = partial(typer.Option, rich_help_panel="Comparison with the checkpoint")
_tensorrt = partial(typer.Option, rich_help_panel="TensorRT")


def export(
    weights: Weights,
    config: WeightsConfig = None,
    onnx: Annotated[bool, _format("--onnx", help="ONNX; the default.")] = False,
    openvino: Annotated[bool, _format("--openvino", help="OpenVINO's .xml and .bin.")] = False,
    trt: Annotated[
        bool, _format("--trt", "--tensorrt", help="TensorRT engine, and its ONNX file.")
    ] = False,
    torchscript: Annotated[bool, _format("--torchscript", help="TorchScript trace.")] = False,
    torch_export: Annotated[bool, _format("--torch-export", help="torch.export, .pt2.")] = False,
    output: Output = None,
    json: JsonOut = False,
    size: InputSize = None,
    dynamic_size: Annotated[
        bool, _input("--dynamic-size", help="Take images of any size.")
    ] = False,
    batch: Annotated[
        Optional[int],
        _input(
            "--batch",
            min=1,
            metavar="N",
            help="Take N images in a call; any number by default.",
            show_default=False,
        ),
    ] = None,
    raw: Annotated[
        bool, _input("--raw", help="The decoder's logits and boxes instead of detections.")
    ] = False,
    opset: Annotated[
        Optional[int],
        _input("--opset", metavar="17…23", help="Of ONNX; 20 by default.", show_default=False),
    ] = None,
    simplify: Annotated[bool, _input("--simplify/--no-simplify", help="With onnxsim.")] = True,
    half: Annotated[
        bool, _precision("--half", "--fp16", help="fp16; norms and box decoding stay in float32.")
    ] = False,
    bf16: Annotated[bool, _precision("--bf16", help="Likewise in bf16; TensorRT.")] = False,
    int8: Annotated[
        bool, _precision("--int8", help="Calibrated on --data; the decoder keeps its precision.")
    ] = False,
    calibration_images: Annotated[int, _precision(min=1, help="Of --data, for --int8.")] = 128,
    verify: Annotated[bool, _check("--verify/--no-verify", help="Compare.")] = True,
    images: Annotated[
        Optional[str],
        _check(
            "--images",
            metavar="DIR",
            help="Pictures to compare on; else those of --data, else generated ones.",
            show_default=False,
        ),
    ] = None,
    data: Data = None,
    split: Split = None,
    tolerance: Annotated[
        Optional[float],
        _check(
            "--tolerance",
            min=0,
            max=1,
            metavar="0…1",
            help="Largest difference of a score, and of a box side relative to the image.",
            show_default="0.005; fp16 0.05, bf16 0.1, int8 0.2",
        ),
    ] = None,
    max_batch: Annotated[int, _tensorrt(min=1, help="Images in a call at most.")] = 8,
    workspace: Annotated[
        Optional[float],
        _tensorrt(
            min=0, metavar="GIB", help="GPU memory for kernels; all by default.", show_default=False
        ),
    ] = None,
    timing_cache: Annotated[
        Optional[Path],
        _tensorrt(
            metavar="FILE",
            help="What was measured, read and written; beside the engine by default.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Export weights to files that run without detrkit, and compare each with the weights.

    A file whose detections differ too much stays NAME.unverified.…, with exit code 5.
    With --data the AP of both is counted; it may fall by a fifth of the tolerance.

    Without TensorRT or a GPU, --trt writes the ONNX file and the trtexec command
    that makes the engine of it, with exit code 6.
    """  # fmt: skip
    from detrkit.cli.console import out, print_json, progress_bar
    from detrkit.engine.derive import parse_size
    from detrkit.engine.exporting import ExportOptions, export_weights
    from detrkit.errors import UsageError
    from detrkit.export.onnx import OPSET
    from detrkit.export.tensorrt import EngineNotBuilt, EngineOptions

    chosen: dict[Format, bool] = {
        "onnx": onnx,
        "openvino": openvino,
        "torchscript": torchscript,
        "torch_export": torch_export,
        "tensorrt": trt,
    }
    formats = tuple(name for name, wanted in chosen.items() if wanted) or ("onnx",)
    precisions: dict[Precision, bool] = {"fp16": half, "bf16": bf16, "int8": int8}
    given = [name for name, wanted in precisions.items() if wanted]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} at once: choose one precision")
    options = ExportOptions(
        formats=formats,
        precision=given[0] if given else "fp32",
        size=parse_size(size) if size else None,
        dynamic_size=dynamic_size,
        batch=batch,
        raw=raw,
        opset=OPSET if opset is None else opset,
        simplify=simplify,
        data=data,
        split=split,
        images=images,
        calibration_images=calibration_images,
        verify=verify,
        tolerance=tolerance,
        engine=EngineOptions(max_batch, workspace, timing_cache),
    )
    done: list[Exported] = []
    missing: EngineNotBuilt | None = None
    with progress_bar("measuring", quiet=json) as progress:
        try:
            for file in export_weights(
                weights, options, config=config, output=output, progress=progress
            ):
                done.append(file)
                if not json:
                    out.print(_line(file), markup=False, soft_wrap=True)
        except EngineNotBuilt as error:
            missing = error
    if json:
        print_json(
            "export",
            {
                "weights": weights,
                "files": [_entry(file) for file in done],
                "not_built": None if missing is None else [missing.message, missing.hint],
            },
        )
    if missing is not None:
        raise missing


def _line(file: Exported) -> str:
    """`best.onnx: onnx fp32, 12.5 MB, N x 3 x 640 x 640; 100.0% of …`."""
    shape = file.shape
    size = "any size" if shape.dynamic_size else "{} x {}".format(*shape.size)
    images = f"{shape.batch or 'N'} x {shape.channels} x {size}"
    head = f"{file.path}: {file.metadata.precision}, {file.bytes / 1e6:.1f} MB, {images}"
    if file.verification is None:
        return f"{head}; not compared"
    return f"{head}\n  {file.verification.describe()}"


def _entry(file: Exported) -> dict[str, Any]:
    """For `--json`."""
    shape = file.shape
    return {
        "format": file.format,
        "path": file.path,
        "bytes": file.bytes,
        "precision": file.metadata.precision,
        "outputs": file.metadata.outputs,
        "batch": shape.batch,
        "size": list(shape.size),
        "dynamic_size": shape.dynamic_size,
        "verification": None if file.verification is None else file.verification.to_dict(),
    }
