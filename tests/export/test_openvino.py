"""8 bits for OpenVINO: what NNCF quantizes, and what it prints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from detrkit.export.openvino import write_openvino
from tests.engine.exported import SPEC
from tests.engine.exported import metadata as metadata_of

pytest.importorskip("openvino")
pytest.importorskip("nncf")

SIDE = 16


def small_model() -> onnx.ModelProto:
    """A convolution of the backbone, a sum of it with the images, a convolution of the decoder."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.3, (3, 3, 3, 3)).astype(np.float32), name)
        for name in ("first", "second")
    ]
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["images", "first"], ["a"], name="backbone.stem/Conv", **pads),
        helper.make_node("Add", ["a", "images"], ["b"], name="encoder/Add"),
        helper.make_node("Conv", ["b", "second"], ["c"], name="decoder.head/Conv", **pads),
        helper.make_node("Relu", ["c"], ["scores"], name="graph/Relu"),
    ]
    shape = ["N", 3, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def written(path: Path, precision: str, batches: Any = None) -> Any:
    import openvino

    about: Any = replace(metadata_of(SPEC), precision=precision)
    write_openvino(small_model(), path, about, batches)
    return openvino.Core().read_model(path)


def test_int8_of_convolutions_outside_the_decoder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import openvino

    rng = np.random.default_rng(1)
    images = rng.random((6, 3, SIDE, SIDE), np.float32)
    quantized = written(tmp_path / "int8.xml", "int8", iter([images[:4], images[4:]]))
    takers = {
        taker.get_node().get_friendly_name()
        for op in quantized.get_ops()
        if op.get_type_name() == "FakeQuantize"
        for taker in op.output(0).get_target_inputs()
    }
    assert takers == {"backbone.stem/Conv"}
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "Statistics" not in printed.err
    plain = written(tmp_path / "fp32.xml", "fp32")
    found, expected = (
        openvino.compile_model(model, "CPU")({"images": images})["scores"]
        for model in (quantized, plain)
    )
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
