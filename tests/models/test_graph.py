"""Backbones and necks written as lists of layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml

from detrkit.errors import ConfigError
from detrkit.models.decoders.dfine import DFINETransformer
from detrkit.models.detector import Detector
from detrkit.models.encoders.hybrid_encoder import HybridEncoder
from detrkit.models.graph import GraphBackbone, GraphEncoder
from detrkit.structures import Target

BACKBONE = [
    [-1, 1, "Conv", [64, 3, 2]],
    [-1, 1, "Conv", [128, 3, 2]],
    [-1, 4, "Conv", [128, 3]],
    [-1, 1, "Conv", {"out_channels": 256, "kernel_size": 3, "stride": 2}],
    [-1, 1, "SPPF", [256]],
    [-1, 1, "Conv", [512, 3, 2]],
    [-1, 2, "C2PSA", [512]],
]
NECK = [
    [2, 1, "Upsample"],
    [[-1, 1], 1, "Concat", []],
    [-1, 1, "Conv", [64]],
    [-1, 1, "Conv", [64, 3, 2]],
    [2, 1, "Conv", [64]],
    [[-1, -2], 1, "Sum", []],
]


#: YOLO11 in the form of its own files: backbone and neck, numbered through.
YOLO11 = """
- [-1, 1, Conv, [64, 3, 2]]
- [-1, 1, Conv, [128, 3, 2]]
- [-1, 2, C3k2, [256, False, 0.25]]
- [-1, 1, Conv, [256, 3, 2]]
- [-1, 2, C3k2, [512, False, 0.25]]
- [-1, 1, Conv, [512, 3, 2]]
- [-1, 2, C3k2, [512, True]]
- [-1, 1, Conv, [1024, 3, 2]]
- [-1, 2, C3k2, [1024, True]]
- [-1, 1, SPPF, [1024, 5]]
- [-1, 2, C2PSA, [1024, 0.5]]
- [-1, 1, nn.Upsample, [None, 2, "nearest"]]
- [[-1, 6], 1, Concat, [1]]
- [-1, 2, C3k2, [512, False]]
- [-1, 1, nn.Upsample, [None, 2, "nearest"]]
- [[-1, 4], 1, Concat, [1]]
- [-1, 2, C3k2, [256, False]]
- [-1, 1, Conv, [256, 3, 2]]
- [[-1, 13], 1, Concat, [1]]
- [-1, 2, C3k2, [512, False]]
- [-1, 1, Conv, [512, 3, 2]]
- [[-1, 10], 1, Concat, [1]]
- [-1, 2, C3k2, [1024, True]]
"""


def test_rows_of_ultralytics_files_are_taken_as_they_are() -> None:
    """Every row has the parameters that the summary of YOLO11n prints for it."""
    graph = GraphBackbone(
        yaml.safe_load(YOLO11), [16, 19, 22], width=0.25, depth=0.5, max_channels=1024
    )
    assert (graph.out_channels, graph.out_strides) == ([64, 128, 256], [8, 16, 32])
    assert [sum(p.numel() for p in layer.parameters()) for layer in graph.layers] == [
        464, 4672, 6640, 36992, 26080, 147712, 87040, 295424, 346112, 164608, 249728,
        0, 0, 111296, 0, 0, 32096, 36992, 0, 86720, 147712, 0, 378880,
    ]  # fmt: skip
    assert [tuple(y.shape) for y in graph(torch.randn(2, 3, 64, 96))] == [
        (2, 64, 8, 12), (2, 128, 4, 6), (2, 256, 2, 3),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"layers\[2\]: Concat.*dimension 1, got 2"):
        GraphBackbone([[-1, 1, "Conv", [8]], [-1, 1, "Conv", [8]], [[0, 1], 1, "Concat", [2]]], [2])


def test_widths_depths_and_strides() -> None:
    graph = GraphBackbone(BACKBONE, [2, 4, 6], width=0.25, depth=0.5, max_channels=256)
    assert graph.out_channels == [32, 64, 64]
    assert graph.out_strides == [4, 8, 16]
    assert [row.repeats for row in graph.rows] == [1, 1, 2, 1, 1, 1, 1]
    x = torch.randn(2, 3, 64, 96)
    maps = graph(x)
    assert [tuple(y.shape) for y in maps] == [(2, 32, 16, 24), (2, 64, 8, 12), (2, 64, 4, 6)]
    conv, more = graph.layers[:3], graph.layers[3]
    expected = x
    for layer in conv:
        expected = layer(expected)
    graph.eval()
    y = x
    for layer in conv:
        y = layer(y)
    assert torch.equal(graph(x)[0], y)
    assert graph(x)[1].shape == graph.layers[4](more(y)).shape


def test_repeats_reach_the_module_that_takes_them() -> None:
    graph = GraphBackbone(BACKBONE, [6])
    assert len(graph.layers[6].blocks) == 2  # type: ignore[union-attr, arg-type]
    assert len(graph.layers[2]) == 4  # type: ignore[arg-type]


def test_a_detector_of_two_graphs_learns() -> None:
    backbone = GraphBackbone(BACKBONE, [2, 4, 6], width=0.125)
    encoder = GraphEncoder(
        backbone.out_channels, backbone.out_strides, [*NECK], outputs=[5, 6], width=0.5
    )
    assert (encoder.out_channels, encoder.out_strides) == ([32, 32], [8, 16])
    decoder = DFINETransformer(
        num_classes=3, hidden_dim=32, num_queries=10, feat_channels=[32, 32], feat_strides=[8, 16],
        num_levels=2, num_points=[3, 2], nhead=4, num_layers=2, dim_feedforward=64,
        eval_spatial_size=[64, 96],
    )  # fmt: skip
    detector = Detector(backbone, encoder, decoder).train()
    targets = [Target(torch.tensor([[0.5, 0.5, 0.2, 0.3]]), torch.tensor([1])) for _ in range(2)]
    outputs = detector(torch.randn(2, 3, 64, 96), targets)
    (outputs["pred_logits"].sum() + outputs["pred_boxes"].sum()).backward()
    idle = [n for n, p in detector.backbone.named_parameters() if p.grad is None]
    assert not idle
    assert detector.deploy()(torch.randn(1, 3, 96, 64))["pred_boxes"].shape == (1, 10, 4)


def test_a_graph_feeds_our_encoder() -> None:
    backbone = GraphBackbone(BACKBONE, [2, 4, 6], width=0.125)
    encoder = HybridEncoder(
        backbone.out_channels, backbone.out_strides, hidden_dim=32, dim_feedforward=64
    )
    maps = encoder(backbone(torch.randn(1, 3, 64, 64)))
    assert [tuple(y.shape[1:]) for y in maps] == [(32, 16, 16), (32, 8, 8), (32, 4, 4)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([-1, 1, "Cnv", [8]], r"layers\[1\]: Cnv: unknown component `Cnv`, did you mean `Conv`"),
        ([-1, 1, "MSE", []], r"layers\[1\]"),
        ([-1, 1, "HGNetv2", []], r"layers\[1\]: HGNetv2: HGNetv2 is no module of maps"),
        ([5, 1, "Conv", [8]], r"layers\[1\]: `from` 5 is no earlier layer"),
        ([-9, 1, "Conv", [8]], r"`from` -9 is no earlier layer"),
        (["x", 1, "Conv", [8]], r"`from` must be the number of a layer, got 'x'"),
        ([[], 1, "Concat", []], r"`from` names no layer"),
        ([-1, 0, "Conv", [8]], r"repeats must be a whole number from 1 on, got 0"),
        ([-1, 1, 3, [8]], r"expected the name of a module, got 3"),
        ([-1, 1, "SimAM", [1, 2, 3]], r"SimAM takes 1 arguments"),
        ([-1, 1, "Conv", 8], r"expected arguments as a list or a mapping"),
        ([-1, 1, "Conv", {"widht": 8}], r"Conv cannot be built for in_channels 8: .*widht"),
        ([[0, 0], 1, "Sum", [3]], r"Sum takes 0 arguments"),
        ([[0, -1], 1, "Conv", [8]], r"layers\[1\]: `from`: Conv takes one map, and there are"),
        ([-1, 1, "Concat", [1]], r"layers\[1\]: `from`: Concat takes several maps, and there is"),
        (["-1"], r"expected \[from, repeats, module, args\]"),
        (7, r"expected \[from, repeats, module, args\], got 7"),
    ],
)
def test_mistakes_name_the_row(row: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GraphBackbone([[-1, 1, "Conv", [8, 3, 2]], row], [1])


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([], "must be layers 0 to 6"),
        ([7], "must be layers 0 to 6"),
        ([4, 2], r"have strides \[8, 4\]; they must grow"),
    ],
)
def test_outputs_are_checked(outputs: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GraphBackbone(BACKBONE, outputs)


def test_an_encoder_needs_a_stride_for_each_map() -> None:
    with pytest.raises(ConfigError, match=r"feat_strides: \[8\] must have an entry"):
        GraphEncoder([8, 16], [8], NECK, [5])


def test_maps_are_let_go_of_after_their_last_use() -> None:
    graph = GraphBackbone(BACKBONE, [6])
    assert graph.last_use == {-1: 0, 0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 6}
