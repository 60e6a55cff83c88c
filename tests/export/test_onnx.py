"""ONNX models of every family answer what the detector answers; their contract; their graph."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from detrkit.errors import DetrkitError, UsageError
from detrkit.export.graph import DetectionGraph, InputShape, exportable
from detrkit.export.half import halved
from detrkit.export.int8 import quantized
from detrkit.export.lowering import lower
from detrkit.export.metadata import KEY, Metadata
from detrkit.export.onnx import describe, to_onnx, trace, write_onnx
from tests.export.families import (
    CLASSES,
    FAMILIES,
    SIZE,
    assert_same,
    family,
    inputs,
    run_onnx,
    shapes,
)


@cache
def traced(name: str) -> tuple[Any, DetectionGraph]:
    """What `to_onnx` takes, of a family, made once."""
    one, shape = family(name), InputShape(SIZE)
    graph = DetectionGraph(exportable(one.detector, shape), one.postprocessor)
    return trace(graph, shape), graph


@cache
def exported(name: str) -> Any:
    """The ONNX model of a family, made once."""
    return to_onnx(*traced(name))


def test_deim_is_dfine_with_another_activation() -> None:
    """So that its export for any size, below, is enough."""
    kinds = [
        [(name, type(m)) for name, m in family(which).detector.named_modules() if name]
        for which in ("deim", "dfine")
    ]
    swapped = {(a[1], b[1]) for a, b in zip(*kinds, strict=True) if a != b}
    assert swapped == {(torch.nn.SiLU, torch.nn.ReLU)}


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "deim"])
class TestFamilies:
    @pytest.mark.parametrize("batch", [1, 2, 7])
    def test_same_detections(self, name: str, batch: int) -> None:
        given = inputs(batch)
        with torch.no_grad():
            wanted = family(name).graph()(*given)
        assert len(wanted[2].unique()) > 10  # it is told apart from a model that says nothing
        assert_same(run_onnx(exported(name), *given), wanted)

    def test_contract(self, name: str) -> None:
        model = exported(name)
        onnx.checker.check_model(model, full_check=True)
        assert shapes(model.graph.input) == {
            "images": ["N", 3, *SIZE],
            "orig_target_sizes": ["N", 2],
        }
        assert shapes(model.graph.output) == {
            "labels": ["N", 20],
            "boxes": ["N", 20, 4],
            "scores": ["N", 20],
        }
        types = [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]
        full, whole = TensorProto.FLOAT, TensorProto.INT64
        assert types == [full, whole, whole, full, full]

    def test_what_is_in_the_graph(self, name: str) -> None:
        model = exported(name)
        assert {node.domain for node in model.graph.node} == {""}  # every runtime knows them
        kinds = {node.op_type for node in model.graph.node}
        assert not kinds & {"BatchNormalization", "If", "Loop", "Dropout"}
        # anchors are constants: nothing computes them from ranges
        assert not kinds & {"Range", "NonZero", "Sin"}
        assert str(Path(__file__).parents[2]).encode() not in model.SerializeToString()
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)

    def test_half(self, name: str) -> None:
        model = halved(exported(name))
        given = inputs(2)
        with torch.no_grad():
            labels, _, scores = (value.numpy() for value in family(name).graph()(*given))
        answer = run_onnx(model, *given)
        assert [value.dtype for value in answer] == [np.int64, np.float32, np.float32]
        np.testing.assert_allclose(answer[2], scores, atol=0.05)
        assert (answer[0] == labels).mean() > 0.5  # random weights: scores lie close together
        _check_precision(model)


def _check_precision(model: Any) -> None:
    """Weights of convolutions are in 16 bits; norms, softmax and sampling are computed in 32."""
    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    for value in (*inferred.graph.value_info, *model.graph.input, *model.graph.output):
        kinds[value.name] = value.type.tensor_type.elem_type
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions
    assert {kinds[node.input[1]] for node in convolutions} == {TensorProto.FLOAT16}
    exact = {"LayerNormalization", "Softmax", "GridSample", "TopK", "ReduceMean", "Log", "Sqrt"}
    for node in model.graph.node:
        if node.op_type in exact:
            assert kinds[node.input[0]] != TensorProto.FLOAT16, node.name


@pytest.mark.parametrize(
    ("name", "decoder"), [("deim", "DFINETransformer"), ("deimv2_vit", "DEIMTransformer")]
)
def test_any_size(name: str, decoder: str) -> None:
    """With a decoder of one layer: open sizes take long to follow, and in all layers the same."""
    one = family(name, f"{decoder}.num_layers=1")
    shape = InputShape(SIZE, dynamic_size=True)
    graph = DetectionGraph(exportable(one.detector, shape), one.postprocessor)
    model = to_onnx(trace(graph, shape), graph)
    assert shapes(model.graph.input)["images"] == ["N", 3, "height", "width"]
    for size, batch in ((SIZE, 1), ((160, 64), 3)):
        given = inputs(batch, size)
        with torch.no_grad():
            wanted = one.graph()(*given)
        assert_same(run_onnx(model, *given), wanted)


def test_the_same_model_gives_the_same_bytes() -> None:
    again = to_onnx(*traced.__wrapped__("deimv2_hgnet"))
    first, second = (
        model.SerializeToString(deterministic=True) for model in (exported("deimv2_hgnet"), again)
    )
    assert first == second


def test_int8_leaves_decoder_stem_and_attention_alone() -> None:
    plain = exported("dfine")
    before = plain.SerializeToString(deterministic=True)
    images, _ = inputs(2)
    model = quantized(plain, [images.numpy(), 1 - images.numpy()])
    assert plain.SerializeToString(deterministic=True) == before  # the given model stays
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    sources = {name: node for node in model.graph.node for name in node.output}
    counts = {where: [0, 0] for where in ("decoder", "stem", "attention", "backbone", "encoder")}
    for node in model.graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm") and len(node.input) > 1:
            weight = sources.get(node.input[1])
            low = weight is not None and weight.op_type == "DequantizeLinear"
            low = low and kinds.get(weight.input[0]) == TensorProto.INT8
            product = node.op_type == "MatMul" and weight is not None and not low
            part = node.name.split("/")[0].split(".")
            where = "stem" if "stem" in part else part[0]
            where = "attention" if product and where == "encoder" else where
            counts[where][bool(low)] += 1
    assert [counts[where][True] for where in ("decoder", "stem", "attention")] == [0, 0, 0]
    assert counts["decoder"][False] > 10
    assert counts["stem"][False] == 5
    assert counts["attention"][False] == 2
    assert counts["backbone"][True] + counts["encoder"][True] > 50
    assert counts["backbone"][False] == counts["encoder"][False] == 0
    given = inputs(2)
    answer = run_onnx(model, *given)
    assert answer[1].shape == (2, 20, 4)
    assert np.isfinite(answer[1]).all()


def test_description(tmp_path: Path) -> None:
    one = family("dfine")
    model = onnx.ModelProto()
    model.CopyFrom(exported("dfine"))
    spec = one.checkpoint.image_spec
    assert spec is not None
    metadata = Metadata(spec, CLASSES, one.checkpoint.config)
    describe(model, metadata)
    write_onnx(model, tmp_path / "d.onnx")
    (entry,) = onnx.load(str(tmp_path / "d.onnx")).metadata_props
    assert entry.key == KEY
    assert Metadata.from_json(entry.value, "d.onnx") == metadata


def test_affine_blocks_are_gone() -> None:
    """What stands behind a convolution of HGNetv2 is a bound, not two operations on the map."""
    model = exported("deimv2_hgnet")
    consumers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, set()).add(node.op_type)
    backbone = [
        n for n in model.graph.node if n.op_type == "Conv" and n.name.startswith("backbone.stem")
    ]
    assert len(backbone) == 5
    assert all(consumers[node.output[0]] == {"Clip"} for node in backbone)


@pytest.mark.parametrize("scale", [0.7, -0.4, 0.0])
def test_affine_blocks_fold_whatever_their_sign(scale: float) -> None:
    one = family("deimv2_hgnet")
    with torch.no_grad():
        affine = one.detector.backbone.stem.stem2a.lab  # type: ignore[union-attr]
        before = affine.scale.clone()
        affine.scale.fill_(scale)  # type: ignore[operator]
    try:
        images, sizes = inputs(2)
        with torch.no_grad():
            wanted = one.graph()(images, sizes)
            folded = DetectionGraph(exportable(one.detector, InputShape(SIZE)), one.postprocessor)
            assert_same(folded(images, sizes), wanted)
    finally:
        with torch.no_grad():
            affine.scale.copy_(before)  # type: ignore[operator]


def test_a_fixed_batch_and_zeros_at_the_border_that_stay_in_the_maximum() -> None:
    """ONNX Runtime moves zero padding into a pooling, where it is none: all pixels negative."""
    one = family("deimv2_hgnet")
    affine = one.detector.backbone.stem.stem1.lab  # type: ignore[union-attr]
    with torch.no_grad():
        before = affine.bias.clone()
        affine.bias.fill_(-3.0)  # type: ignore[operator]
    try:
        shape = InputShape(SIZE, batch=2)
        graph = DetectionGraph(exportable(one.detector, shape), one.postprocessor)
        model = to_onnx(trace(graph, shape), graph)
        assert shapes(model.graph.input) == {"images": [2, 3, *SIZE], "orig_target_sizes": [2, 2]}
        given = inputs(2)
        with torch.no_grad():
            wanted = one.graph()(*given)
        assert_same(run_onnx(model, *given), wanted)
    finally:
        with torch.no_grad():
            affine.bias.copy_(before)  # type: ignore[operator]


def test_enlarged_maps_say_that_they_keep_the_batch() -> None:
    """Else ONNX Runtime adds them in an operation of its own."""
    model = exported("dfine")
    enlarged = [node.output[0] for node in model.graph.node if node.op_type == "Resize"]
    known = shapes(model.graph.value_info)
    assert enlarged
    assert list(known) == enlarged
    assert all(shape[0] == "N" for shape in known.values())


def test_wrong_shapes() -> None:
    with pytest.raises(UsageError, match="multiples of 32"):
        InputShape((64, 100))
    with pytest.raises(UsageError, match="at least 1"):
        InputShape(SIZE, batch=0)


#: Those that are not the default; each family takes seconds.
OPSETS = [
    pytest.param("deimv2_hgnet", 17),
    pytest.param("deimv2_hgnet", 23),
    *(
        pytest.param(name, opset, marks=pytest.mark.slow)
        for name in FAMILIES
        for opset in (17, 18, 19, 21, 22, 23)
    ),
]


@pytest.mark.parametrize(("name", "opset"), OPSETS)
def test_other_opsets(name: str, opset: int) -> None:
    model = to_onnx(*traced(name), opset=opset)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    given = inputs(2)
    with torch.no_grad():
        assert_same(run_onnx(model, *given), family(name).graph()(*given))


def test_opsets_that_there_are() -> None:
    graph = DetectionGraph(family("deimv2_hgnet").detector, None)
    for opset in (11, 24):
        with pytest.raises(UsageError, match="17 to 23"):
            to_onnx(None, graph, opset=opset)  # type: ignore[arg-type]


def lowered(*nodes: Any, rank: int = 4, **axes: list[int]) -> Any:
    """A graph of opset 18 for x (1, 2, 6, 6), in opset 17."""
    helper = onnx.helper
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2, 6, 6))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"] * rank)],
            [numpy_helper.from_array(np.array(a, np.int64), n) for n, a in axes.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    lower(model)
    return model


def test_new_forms_become_old_ones() -> None:
    node = onnx.helper.make_node
    model = lowered(
        node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
        node("Add", ["a", "b"], ["c"]),
        node("ReduceMean", ["c", "last"], ["y"], keepdims=0, noop_with_empty_axes=0),
        rank=2,
        last=[2, 3],
    )
    assert not model.graph.initializer
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = np.random.default_rng(0).random((1, 2, 6, 6), np.float32)
    (found,) = session.run(None, {"x": x})
    assert found.shape == (1, 1)
    np.testing.assert_allclose(found, x.sum(1, keepdims=True).mean((2, 3)), rtol=1e-5)


def test_what_opset_17_cannot_say() -> None:
    node = onnx.helper.make_node
    for wrong in (
        node("Mish", ["x"], ["y"]),
        node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1),
    ):
        with pytest.raises(UsageError, match="--opset 17: this model cannot be written"):
            lowered(wrong, s=[1, 1, 2, 2])
    with pytest.raises(UsageError, match="--opset 17: this model cannot be written"):
        lowered(
            node("Split", ["x"], ["y", "b", "c", "d"], axis=2, num_outputs=4),
        )


def test_fp16_cannot_hold_everything() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(exported("deimv2_hgnet"))
    convolution = next(n for n in model.graph.node if n.op_type == "Conv")
    weight = next(t for t in model.graph.initializer if t.name == convolution.input[1])
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = 1e6
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    with pytest.raises(UsageError, match="beyond fp16's range"):
        halved(model)
    halved(model, "bf16")


def test_a_file_has_two_gibibytes_at_most(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(onnx.ModelProto, "ByteSize", lambda self: 2**31, raising=False)
    with pytest.raises(DetrkitError, match="at most 2 GiB"):
        write_onnx(onnx.ModelProto(), tmp_path / "big.onnx")
