"""8-bit ONNX models: ONNX Runtime's static quantization, calibrated on images.

Convolutions and matrix products of backbone and encoder take 8-bit inputs and weights, one scale
per output channel. The decoder stays as it is: its boxes are sums of small corrections, which 8
bits would round away. So do the stem, whose few channels are faster in float, and the products of
attention, which have no weights. The operators are float ones between `QuantizeLinear` and
`DequantizeLinear`, as every runtime reads them: ONNX Runtime, TensorRT (symmetric), OpenVINO.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from onnx import ModelProto

#: (N, C, h, w) float32 as the model takes them.
Images = npt.NDArray[np.float32]

#: Nodes that keep their precision: the decoder's, whose names `detrkit.export.onnx` gives.
DECODER = re.compile(r"^decoder[./]")

#: The backbone's first convolutions.
_STEM = re.compile(r"^backbone\.(stem|conv1)[./]")

#: What is quantized.
_OPERATORS = ["Conv", "MatMul", "Gemm"]


def quantized(
    model: ModelProto, batches: Iterable[Images], *, symmetric: bool = False
) -> ModelProto:
    """A copy of a float32 model in 8 bits.

    Args:
        model: of `detrkit.export.onnx`.
        batches: preprocessed images, equally many in each, which show how large numbers become.
        symmetric: without zero points, as TensorRT wants it.
    """
    import onnx
    from onnxruntime import quantization

    kinds = quantization.QuantType
    given = onnx.ModelProto()
    given.CopyFrom(model)  # ONNX Runtime moves the weights of what it gets into a file
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [
        node.name
        for node in model.graph.node
        if DECODER.match(node.name) or _STEM.match(node.name) or weights.isdisjoint(node.input)
    ]
    with tempfile.TemporaryDirectory(prefix="detrkit-int8-") as folder, _quiet():
        target = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            given,
            str(target),
            _Reader(model, batches),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            nodes_to_exclude=kept,
            per_channel=True,
            activation_type=kinds.QInt8 if symmetric else kinds.QUInt8,
            weight_type=kinds.QInt8,
            calibrate_method=quantization.CalibrationMethod.Percentile,
            extra_options={
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "CalibPercentile": 99.99,  # the last hundredth of a percent would waste bits
            },
        )
        result = onnx.load(str(target))
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    del result.metadata_props[:]
    return result


def inputs_for(names: Iterable[str], images: Images) -> dict[str, Any]:
    """The inputs called `names` for preprocessed images, which count as not resized."""
    sizes = np.tile(np.array(images.shape[:1:-1], np.int64), (len(images), 1))
    return {name: images if name == "images" else sizes for name in names}


class _Reader:
    """Gives calibration its inputs, one batch at a time.

    Args:
        model: whose inputs are to be given.
        batches: preprocessed images.
    """

    def __init__(self, model: ModelProto, batches: Iterable[Images]) -> None:
        self.names = [value.name for value in model.graph.input]
        self.batches: Iterator[Images] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """Inputs by name, or None at the end."""
        images = next(self.batches, None)
        return None if images is None else inputs_for(self.names, images)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Its advice is about models that were not prepared, as ours are; it also prints."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
