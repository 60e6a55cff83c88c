"""ONNX files: traced with `torch.export`, simplified, named and described.

The operators are those of opset 20, the first with GELU, one operator instead of five, and the
last that TensorRT 10 and ONNX Runtime 1.18 both know whole. `torch.export` follows shapes as
symbols, so that batch and size stay free where they are to be; the older exporter records numbers.
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from detrkit.errors import DetrkitError, MissingExtraError, UsageError
from detrkit.export.graph import STRIDE, DetectionGraph, InputShape
from detrkit.export.lowering import LOWEST, WRITTEN, lower
from detrkit.export.metadata import KEY, Metadata
from detrkit.files import write_bytes

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

log = logging.getLogger("detrkit")

#: Version of the operators; see above.
OPSET = 20
#: The last that PyTorch writes.
HIGHEST = 23

_SLICE = re.compile(r"\.slice\([^)]*\)")

#: Of the detector in the graph.
_ROOT = "detector."

#: What a file of any size and any batch is traced for, at most.
_LONGEST, _MOST_IMAGES = 128 * STRIDE, 4096

#: Names of the dimensions that may be open, by input and output.
_DIMENSIONS = {
    "images": ("N", "C", "height", "width"),
    "orig_target_sizes": ("N", "2"),
    "labels": ("N", "n"),
    "boxes": ("N", "n", "4"),
    "scores": ("N", "n"),
    "logits": ("N", "n", "K"),
}


def dynamic_shapes(graph: DetectionGraph, shape: InputShape) -> tuple[dict[int, Any], ...]:
    """What `torch.export` shall leave open, input by input."""
    free: dict[int, Any] = {}
    if shape.batch is None:
        free[0] = torch.export.Dim("batch", min=1, max=_MOST_IMAGES)
    images = dict(free)
    if shape.dynamic_size:
        for axis, name in ((2, "height"), (3, "width")):
            images[axis] = STRIDE * torch.export.Dim(name, min=1, max=_LONGEST // STRIDE)
    return (images, free)[: len(graph.input_names)]


def trace(graph: DetectionGraph, shape: InputShape) -> torch.export.ExportedProgram:
    """The graph as PyTorch sees it, for every format that starts from it.

    Raises:
        UsageError: its shapes cannot be left open as wanted.
    """
    inputs = shape.example(raw=graph.postprocessor is None)
    with torch.no_grad(), _quiet():
        try:
            program = torch.export.export(
                graph.eval(), inputs, dynamic_shapes=dynamic_shapes(graph, shape)
            )
        except torch._dynamo.exc.UserError as error:
            raise UsageError(
                f"this model cannot be exported for any size: {str(error).splitlines()[0]}",
                hint="export it for one: --size HxW, without --dynamic-size",
            ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names folders of this machine
    return program


def to_onnx(
    program: torch.export.ExportedProgram,
    graph: DetectionGraph,
    *,
    opset: int = OPSET,
    simplify: bool = True,
) -> ModelProto:
    """The traced graph as an ONNX model in memory.

    Args:
        program: of `trace`.
        graph: what was traced.
        opset: version of the operators, 17 to 23.
        simplify: fold what is constant, with onnxsim.

    Raises:
        UsageError: there is no such opset.
        MissingExtraError: onnxscript, which PyTorch's exporter needs, is missing.
    """
    if not LOWEST <= opset <= HIGHEST:
        raise UsageError(
            f"--opset {opset}: must be {LOWEST} to {HIGHEST}", hint=f"the default is {OPSET}"
        )
    try:
        import onnxscript  # noqa: F401  # PyTorch's exporter wants it
    except ImportError as error:
        raise MissingExtraError("onnxscript", None, "exporting to ONNX") from error
    with torch.no_grad(), _quiet():
        converted = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=max(opset, WRITTEN),
            input_names=graph.input_names,
            output_names=graph.output_names,
            verbose=False,
        )
    assert converted is not None
    model: ModelProto = converted.model_proto
    found = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if found != max(opset, WRITTEN):
        raise UsageError(
            f"--opset {opset}: this PyTorch ({torch.__version__}) writes opset {found}",
            hint="leave --opset out",
        )
    _name_nodes(model)
    if simplify:
        model = simplified(model)
        _name_nodes(model)
    if opset < WRITTEN:
        lower(model)
    _tidy(model)
    return model


def simplified(model: ModelProto) -> ModelProto:
    """What onnxsim makes of a model; the model itself, with a warning, where that differs."""
    import onnxsim

    with _quiet():
        result, same = onnxsim.simplify(model)
    if not same:
        log.warning("onnxsim's graph answers differently; it is left out")
        return model
    simple: ModelProto = result
    return simple


def _name_nodes(model: ModelProto) -> None:
    """Names from the modules: `decoder.decoder.layers.0.self_attn/MatMul_2`.

    What onnxsim made anew belongs where its weights are from, else where its input comes from.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    module_of: dict[str, str] = {}
    used: Counter[str] = Counter()
    for node in model.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key.endswith("name_scopes")), "")
        own = [name for name in node.input if name in weights and name.startswith(_ROOT)]
        before = [module_of[name] for name in node.input if name in module_of]
        if scopes:
            module = ([name for name in ast.literal_eval(scopes)[:-1] if name] or [""])[-1]
        elif "/" in node.name:
            module = node.name.rpartition("/")[0]
        elif own:
            module = own[0].rpartition(".")[0]
        else:
            module = before[0] if before else ""
        module = _SLICE.sub("", module.removeprefix(_ROOT)) or "graph"
        module_of |= dict.fromkeys(node.output, module)
        name = f"{module}/{node.op_type}"
        used[name] += 1
        node.name = name if used[name] == 1 else f"{name}_{used[name]}"


def _tidy(model: ModelProto) -> None:
    """Names open dimensions; removes what says where the file was made, and most derived shapes."""
    enlarged = _enlarged(model)
    for value in (*model.graph.input, *model.graph.output):
        for dimension, name in zip(
            value.type.tensor_type.shape.dim, _DIMENSIONS[value.name], strict=True
        ):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name
    del model.graph.value_info[:]
    model.graph.value_info.extend(enlarged)
    parts = model.graph.node, model.graph.input, model.graph.output, model.graph.initializer
    for part in (model.graph, *chain(*parts)):
        del part.metadata_props[:]
        part.doc_string = ""
    del model.metadata_props[:]
    model.doc_string = ""
    model.graph.name = "detector"
    model.producer_name = "detrkit"
    model.producer_version = ""


def _enlarged(model: ModelProto) -> list[ValueInfoProto]:
    """The shapes of enlarged maps of a fixed size, with the batch's name.

    ONNX does not infer that `Resize` keeps the batch, and without knowing it ONNX Runtime does not
    let the convolution beside it add the enlarged map in place.
    """
    names = {name for node in model.graph.node if node.op_type == "Resize" for name in node.output}
    found = []
    for value in model.graph.value_info:
        if value.name in names:
            batch, *sides = value.type.tensor_type.shape.dim
            if batch.dim_param and all(side.HasField("dim_value") for side in sides):
                batch.dim_param = _DIMENSIONS["images"][0]
                found.append(value)
    return found


def describe(model: ModelProto, metadata: Metadata) -> None:
    """Puts the description into `metadata_props`."""
    import onnx

    entries = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**entries, KEY: metadata.to_json()})


def write_onnx(model: ModelProto, path: Path) -> None:
    """Writes the file, all of it or nothing.

    Raises:
        DetrkitError: it cannot be written, or is larger than the 2 GiB that one file may hold.
    """
    size = model.ByteSize()
    if size >= 2**31:
        raise DetrkitError(f"{path}: the model has {size} bytes, an ONNX file at most 2 GiB")
    write_bytes(path, model.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What exporters print and warn of concerns their own development."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
