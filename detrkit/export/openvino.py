"""OpenVINO's intermediate representation: `NAME.xml` and `NAME.bin`.

It is made from the ONNX model. In fp16 the weights are kept in 16 bits; in which precision a device
computes is the device's choice. In int8 NNCF calibrates convolutions and products of backbone and
encoder; the rest keeps its precision.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrkit.errors import MissingExtraError
from detrkit.export.int8 import DECODER, Images, inputs_for
from detrkit.export.metadata import KEY, Metadata
from detrkit.files import write_bytes

if TYPE_CHECKING:
    from onnx import ModelProto


#: Operators whose inputs take 8 bits, as in `detrkit.export.int8`. NNCF would do it with sums and
#: concatenations too, which costs DEIMv2-Atto a fifth of its AP and more.
_QUANTIZED = ("Convolution", "GroupConvolution", "MatMul")


def require_openvino(int8: bool = False) -> None:
    """Says so before the work begins where a package is missing.

    Raises:
        MissingExtraError: OpenVINO, or NNCF for int8, is not installed.
    """
    try:
        import openvino  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino", "exporting to OpenVINO") from error
    if int8:
        try:
            with _quiet():
                import nncf  # noqa: F401  # likewise
        except ImportError as error:
            raise MissingExtraError("nncf", "openvino", "quantizing for OpenVINO") from error


def write_openvino(
    model: ModelProto,
    path: Path,
    metadata: Metadata,
    batches: Iterable[Images] | None = None,
) -> None:
    """Writes both files.

    Args:
        model: in float32.
        path: the `.xml`.
        metadata: its description; `precision` says which is wanted.
        batches: preprocessed images, for int8.

    Raises:
        MissingExtraError: see `require_openvino`.
    """
    require_openvino(metadata.precision == "int8")
    import openvino

    with tempfile.TemporaryDirectory(prefix="detrkit-openvino-") as folder, _quiet():
        source = Path(folder) / "model.onnx"
        source.write_bytes(model.SerializeToString())
        converted = openvino.convert_model(str(source))
        if metadata.precision == "int8":
            converted = _quantized(converted, batches or ())
        converted.set_rt_info(metadata.to_json(), KEY)
        target = Path(folder) / path.name
        openvino.save_model(converted, str(target), compress_to_fp16=metadata.precision == "fp16")
        del converted  # maps the weights of the source
        for written in (target.with_suffix(".bin"), target):  # the .xml last: it makes the pair
            write_bytes(path.with_suffix(written.suffix), written.read_bytes())


def _quantized(model: Any, batches: Iterable[Images]) -> Any:
    import nncf

    names = [value.get_any_name() for value in model.inputs]
    chosen = [image[None] for images in batches for image in images]  # NNCF averages over calls
    kept = [
        op.friendly_name
        for op in model.get_ops()
        if op.get_type_name() not in _QUANTIZED or DECODER.match(op.friendly_name)
    ]
    return nncf.quantize(
        model,
        nncf.Dataset(chosen, lambda images: inputs_for(names, images)),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
        subset_size=len(chosen),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """NNCF's progress, which it prints, and torch's remarks when NNCF loads parts of it."""
    loggers = [logging.getLogger(name) for name in ("nncf", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
