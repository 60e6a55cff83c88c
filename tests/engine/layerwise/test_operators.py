"""Operations by kind, and the nodes of ONNX Runtime's profile."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from detrkit.engine.benchmarking.breakdown import Breakdown, Spent
from detrkit.engine.benchmarking.taking_apart import layer_rows, node_rows
from detrkit.engine.layerwise.onnx_nodes import NodeTime, node_times, scope_of
from detrkit.engine.layerwise.operators import grouped, kind_of_operator, time_operators


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("mkldnn::_convolution_pointwise", "convolution"),
        ("FusedConv", "convolution"),
        ("QLinearConv", "convolution"),
        ("aten::addmm", "matrix product"),
        ("aten::mm", "matrix product"),
        ("mkldnn::_linear_pointwise", "matrix product"),
        ("FusedMatMul", "matrix product"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::grid_sampler_2d", "sampling"),
        ("GridSample", "sampling"),
        ("aten::upsample_bilinear2d", "pooling, resizing"),
        ("MaxPool", "pooling, resizing"),
        ("aten::native_layer_norm", "normalization"),
        ("SimplifiedLayerNormalization", "normalization"),
        ("aten::softmax", "activation"),
        ("aten::hardtanh_", "activation"),
        ("aten::topk", "selection"),
        ("GatherElements", "selection"),
        ("aten::cat", "memory"),
        ("ReorderInput", "memory"),
        ("aten::copy_", "memory"),
        ("aten::_foreach_add_", "arithmetic"),
        ("Mul", "arithmetic"),
        ("aten::resize_", "memory"),
        ("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", "data loading"),
        ("Resize", "pooling, resizing"),
        ("DynamicQuantizeLinear", "quantization"),
        ("aten::_fused_adamw_", "optimizer"),
        ("autograd::engine::evaluate_function: ConvolutionBackward0", "convolution"),
        ("triton_poi_fused_0", "other"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of_operator(name) == kind


def test_operations_of_a_kind_are_added_up() -> None:
    rows = grouped(
        [
            ("aten::mm", 5.0, 2), ("aten::addmm", 2.0, 3), ("aten::mm", 1.0, 1),
            ("aten::relu", 4.0, 6), ("x", 0.0, 9),
        ],
        2,
    )  # fmt: skip
    assert rows == [
        Spent("matrix product", 4.0, 3.0, "aten::mm, aten::addmm"),
        Spent("activation", 2.0, 3.0, "aten::relu"),
    ]
    shares = [row["share"] for row in Breakdown(1, (), rows).to_dict()["operations"]]
    assert shares == [pytest.approx(2 / 3), pytest.approx(1 / 3)]


def test_what_runs_is_found() -> None:
    weight, x = torch.ones(64, 64), torch.ones(1, 64)
    rows = time_operators(lambda: torch.relu(x @ weight), torch.device("cpu"), passes=2)
    calls = {row.name: row.calls for row in rows}
    assert calls["matrix product"] >= 1
    assert calls["activation"] >= 1


def event(name: str, at: float, took: float, operator: str = "") -> dict[str, Any]:
    category = "Node" if operator else "Session"
    return {"name": name, "ts": at, "dur": took, "cat": category, "args": {"op_name": operator}}


def test_nodes_of_the_last_passes_count() -> None:
    events = []
    for turn, took in enumerate([900.0, 100.0, 200.0, 700.0]):
        start = 1000.0 * turn
        events += [
            event("backbone.stem/Conv_fence_before", start + 1, 5, "Conv"),
            event("backbone.stem/Conv_kernel_time", start + 2, took, "Conv"),
            event("Reorder_kernel_time", start + 3, 50, "ReorderOutput"),
            event("model_run", start, 990),
        ]
    assert node_times(events, passes=3) == [
        NodeTime("backbone.stem", "Conv", 0.2, 1.0),
        NodeTime("", "ReorderOutput", 0.05, 1.0),
    ]


@pytest.mark.parametrize(
    ("node", "scope"),
    [
        ("decoder.decoder.layers.0.self_attn/MatMul_2", "decoder.decoder.layers.0.self_attn"),
        ("/model/backbone/stem/conv1/Conv", "backbone.stem.conv1"),
        ("/postprocessor/TopK", "postprocessor"),
        ("graph/Cast", "graph"),
        ("/Concat", ""),
        ("Conv_12", ""),
    ],
)
def test_scopes(node: str, scope: str) -> None:
    assert scope_of(node) == scope


def test_layers_are_cut_off_at_a_depth_and_add_up() -> None:
    own = {"": 1.0, "a": 2.0, "a.b": 3.0, "a.b.c": 4.0, "d": 5.0}
    kinds = {"": "Net", "a": "A", "a.b": "B", "d": "D"}
    rows = layer_rows(own, {"": 1, "a": 1, "a.b": 2, "d": 1}, kinds, depth=2)
    assert rows == [
        Spent("model, itself", 1.0, 1, "Net"), Spent("a, itself", 2.0, 1, "A"),
        Spent("a.b", 7.0, 2, "B"), Spent("d", 5.0, 1, "D"),
    ]  # fmt: skip
    assert [row.milliseconds for row in layer_rows(own, {}, kinds, depth=1)] == [1.0, 9.0, 5.0]


def test_nodes_are_cut_off_likewise() -> None:
    nodes = [
        NodeTime("a.b.c", "Conv", 1.0, 1), NodeTime("a.b", "Add", 2.0, 1),
        NodeTime("a", "Add", 0.5, 1), NodeTime("", "Reorder", 0.25, 4),
    ]  # fmt: skip
    assert node_rows(nodes, depth=2) == [
        Spent("a.b", 3.0, 2, "nodes"), Spent("a, itself", 0.5, 1, "nodes"),
        Spent("runtime", 0.25, 4, "nodes"),
    ]  # fmt: skip
