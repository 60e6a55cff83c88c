"""ONNX files as the authors export them, made here by hand: what is read off the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from detrkit.api import load
from detrkit.engine.onnx_runtime import OnnxRuntime
from detrkit.engine.runtime import Runtime
from detrkit.errors import UsageError, WeightsError

Dimension = int | str


def write(
    path: Path,
    *,
    batch: Dimension = "N",
    size: tuple[Dimension, Dimension] = (32, 48),
    classes: int = 80,
    layer: str = "/model/backbone",
    outputs: tuple[str, ...] = ("labels", "boxes", "scores"),
    channels: int = 3,
) -> Path:
    """A model with two detections: mean of the pixels as score 1, half of it as score 0.

    The boxes are the whole image and its left half; the worse one comes first.
    """
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], name=f"{layer}/mean", axes=[1, 2, 3],
                         keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["column"]),
        helper.make_node("Mul", ["column", "factors"], ["scores"]),
        helper.make_node("Cast", ["scores"], ["zeros"], to=TensorProto.INT64),
        helper.make_node("Add", ["zeros", "kinds"], ["labels"]),
        helper.make_node("Cast", ["orig_target_sizes"], ["wh"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["wh", "corners"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["boxes"]),
    ]  # fmt: skip
    corners = np.zeros((2, 8), np.float32)
    corners[0, [2, 6]] = 0.5, 1.0  # right edges, of the width
    corners[1, [3, 7]] = 1.0  # lower edges, of the height
    values = {
        "one": np.array([1]),
        "factors": np.array([0.5, 1.0], np.float32),
        "kinds": np.array([3, 5]),
        "corners": corners,
        "shape": np.array([-1, 2, 4]),
        "model.decoder.dec_score_head.2.bias": np.zeros(classes, np.float32),
    }
    types = {"labels": TensorProto.INT64, "boxes": TensorProto.FLOAT, "scores": TensorProto.FLOAT}
    graph = helper.make_graph(
        nodes,
        "detector",
        [
            helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, channels, *size]),
            helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, [batch, 2]),
        ],
        [
            helper.make_tensor_value_info(n, types[n], ["N", 2, 4] if n == "boxes" else ["N", 2])
            for n in outputs
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def gray(height: int, width: int, level: int) -> torch.Tensor:
    return torch.full((3, height, width), level, dtype=torch.uint8)


@pytest.mark.parametrize("batch", ["N", 1, 2])
def test_predict(tmp_path: Path, batch: Dimension) -> None:
    runtime = Runtime.open(write(tmp_path / "d.onnx", batch=batch), device="cpu")
    assert isinstance(runtime, OnnxRuntime)
    assert runtime.image_spec.size == (32, 48)
    found = runtime.predict([gray(20, 40, 255), gray(64, 30, 51), gray(8, 8, 0)], ["a", "b", "c"])
    assert [d.path for d in found] == ["a", "b", "c"]
    np.testing.assert_allclose(found[0].scores, [1.0, 0.5])
    np.testing.assert_allclose(found[1].scores, [0.2, 0.1], atol=1e-5)
    np.testing.assert_allclose(found[0].boxes_xyxy, [[0, 0, 40, 20], [0, 0, 20, 20]])
    np.testing.assert_allclose(found[1].boxes_xyxy, [[0, 0, 30, 64], [0, 0, 15, 64]])
    # the first image's scores of 1 also raise its labels by one
    assert found[1].labels.tolist() == [5, 3]
    assert found[1].names == ["bus", "motorcycle"]
    assert runtime.predict([]) == []


def test_through_the_api(tmp_path: Path) -> None:
    detector = load(write(tmp_path / "d.onnx"), device="cpu")
    found = detector.predict(np.full((10, 10, 3), 128, np.uint8), conf=0.4)
    assert len(found) == 1
    assert found.orig_size == (10, 10)


@pytest.mark.parametrize(
    ("classes", "name", "last"),
    [(80, "person", "toothbrush"), (366, "(unused)", "Table Tennis"), (3, "class 0", "class 2")],
)
def test_classes_by_their_number(tmp_path: Path, classes: int, name: str, last: str) -> None:
    runtime = Runtime.open(write(tmp_path / "d.onnx", classes=classes), device="cpu")
    assert (runtime.class_map.names[0], runtime.class_map.names[-1]) == (name, last)


def test_vits_want_normalised_colours(tmp_path: Path) -> None:
    plain = Runtime.open(write(tmp_path / "a.onnx"), device="cpu")
    vit = Runtime.open(write(tmp_path / "b.onnx", layer="/model/backbone/dinov3"), device="cpu")
    assert plain.image_spec.mean == (0, 0, 0)
    assert vit.image_spec.mean == (0.485, 0.456, 0.406)
    assert vit.image_spec.std == (0.229, 0.224, 0.225)


def test_images_of_other_channels(tmp_path: Path) -> None:
    runtime = Runtime.open(write(tmp_path / "d.onnx", channels=5), device="cpu")
    assert runtime.image_spec.in_channels == 5
    image = torch.full((5, 10, 10), 51.0)
    (found,) = runtime.predict([image])
    assert found.scores.max() == pytest.approx(0.2, abs=1e-4)


def test_sizes(tmp_path: Path) -> None:
    fixed = write(tmp_path / "fixed.onnx")
    with pytest.raises(UsageError, match="only takes images of 32x48"):
        Runtime.open(fixed, device="cpu", size=(64, 64))
    free = write(tmp_path / "free.onnx", size=("h", "w"))
    with pytest.raises(UsageError, match="any size") as error:
        Runtime.open(free, device="cpu")
    assert "--size" in (error.value.hint or "")
    assert Runtime.open(free, device="cpu", size=(64, 96)).image_spec.size == (64, 96)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not found"):
        Runtime.open(tmp_path / "absent.onnx", device="cpu")
    (tmp_path / "d.onnx").write_bytes(b"no model")
    with pytest.raises(WeightsError, match="damaged or not a model"):
        Runtime.open(tmp_path / "d.onnx", device="cpu")
    with pytest.raises(WeightsError, match="not those of the authors' exporters"):
        Runtime.open(write(tmp_path / "e.onnx", outputs=("labels", "boxes")), device="cpu")
