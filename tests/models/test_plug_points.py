"""A training step at two sizes, with a paper's module in each place that takes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from detrkit.losses.criterion import SetCriterion
from detrkit.models.backbones.hgnetv2 import HGNetv2
from detrkit.models.backbones.presnet import PResNet
from detrkit.models.decoders.dfine import DFINETransformer
from detrkit.models.detector import Detector
from detrkit.models.encoders.fdpn import FDPN
from detrkit.models.encoders.hybrid_encoder import HybridEncoder
from detrkit.models.encoders.lite_encoder import LiteEncoder
from detrkit.models.graph import GraphBackbone, GraphEncoder
from detrkit.structures import Target
from tests.losses.cases import make_criterion

SIZES = ((64, 64), (96, 128))

GSA_BLOCK = {"type": "MetaFormerBlock", "mixer": {"type": "GSA", "num_heads": 4}}
HYBRID: list[dict[str, Any]] = [
    {"block": "RepHMS"},
    {"block": "MANet"},
    {"block": {"type": "C3k2", "inner": "FasterBlock"}},
    {"block": GSA_BLOCK},
    {"fusion": "MFM"},
    {"fusion": "CGFM"},
    {"fusion": {"type": "PST", "expansion": 1.0}},
    {"fusion": "MultiScalePCA"},
    {"upsample": "DySample"},
    {"upsample": "CARAFE"},
    {"upsample": "EUCB"},
    {"downsample": "HWD"},
    {"downsample": {"type": "LAWDS", "group": 4}},
    {"downsample": "SPDConv"},
    {"aifi": {"attention": "PolaLinearAttention"}},
    {"aifi": {"attention": "CTA", "mlp": "ConvolutionalGLU", "norm": "DynamicTanh"}},
    {"aifi": {"attention": "SS2D", "mlp": "KAN", "norm": "RepBN"}},
    {"aifi": {"attention": "DAttention", "mlp": "FRFN"}},
    {"after": ["SimAM", "CoordAtt", {"type": "EMA", "factor": 4}]},
    {
        "block": "RepHMS",
        "fusion": "MFM",
        "upsample": "DySample",
        "aifi": {"attention": "MSLA", "mlp": "DFFN"},
        "after": [None, "LSKBlock", None],
    },
]
LITE: list[dict[str, Any]] = [{"block": "C2f"}, {"block": "RGCSPELAN"}]
BACKBONE: list[dict[str, Any]] = [
    {"block": [None, None, "RepViTBlock", "FasterBlock"]},
    {"stem": "LoGStem"},
    {"stem": "SRFD"},
    {"after": [None, None, "MLCA", "SEAM"]},
]
#: Two detectors of rows: stride 8, 16 and 32 out of the backbone, 8 and 16 out of the neck.
ROWS: list[tuple[list[Any], list[Any]]] = [
    (
        [
            [-1, 1, "Conv", [16, 3, 2]],
            [-1, 1, "HWD", [16]],
            [-1, 2, "C3k2", [32]],
            [-1, 1, "SPDConv", [32]],
            [-1, 1, "RepHMS", [32]],
            [-1, 1, "ADown", [32]],
            [-1, 1, "C2PSA", {"out_channels": 32, "num_heads": 2}],
            [-1, 1, "Conv", [32, 3, 2]],
            [-1, 1, "SPPF", [32]],
        ],
        [
            [2, 1, "DySample"],
            [[1, -1], 1, "MFM", []],
            [-1, 1, "EUCB"],
            [[0, -1], 1, "CGFM", [32]],
            [[-1, 0], 1, "Concat", []],
            [-1, 1, "Conv", [32, 3, 2]],
            [[-1, 4], 1, "Sum", []],
        ],
    ),
    (
        [
            [-1, 1, "SRFD", [16]],
            [-1, 1, "UniRepLKNetBlock"],
            [-1, 1, "DRFD", [32]],
            [-1, 1, "StarBlock"],
            [-1, 1, "ContextGuidedBlock_Down", [32]],
            [-1, 1, "iRMB", {"dim_head": 8}],
            [-1, 1, "V7DownSampling", [32]],
            [-1, 1, "VMAMBA2Block", {"num_heads": 4, "d_state": 8}],
        ],
        [
            [[0, 1, 2], 1, "HyperACE", [32]],
            [[1, -1], 1, "FullPADTunnel", []],
            [-1, 1, "CARAFE"],
            [[0, -1], 1, "MultiScaleGatedAttn", [32]],
            [4, 1, "Conv", [32]],
        ],
    ),
]
#: Number of the rows' maps that go on, by `ROWS`.
OUTPUTS = (([4, 6, 8], [6, 9]), ([3, 5, 7], [6, 7]))


def decoder(encoder: Any) -> DFINETransformer:
    widths, strides = encoder.out_channels, encoder.out_strides
    return DFINETransformer(
        num_classes=5, hidden_dim=32, num_queries=10, feat_channels=widths, feat_strides=strides,
        num_levels=len(widths), num_points=[2] * len(widths), nhead=4, num_layers=2,
        dim_feedforward=32, num_denoising=8, reg_max=8,
    )  # fmt: skip


def detector(backbone: Any, encoder: Any) -> Detector:
    return Detector(backbone, encoder, decoder(encoder))


def hgnet(**parts: Any) -> HGNetv2:
    return HGNetv2("B0", return_idx=[1, 2, 3], freeze_at=-1, freeze_norm=False, **parts)


def hybrid(backbone: Any, **parts: Any) -> HybridEncoder:
    return HybridEncoder(
        backbone.out_channels, backbone.out_strides, hidden_dim=32, nhead=4, dim_feedforward=32,
        expansion=0.5, depth_mult=0.34, **parts,
    )  # fmt: skip


def graphs(number: int) -> Detector:
    (rows, neck), (ends, outs) = ROWS[number], OUTPUTS[number]
    backbone = GraphBackbone(rows, ends)
    neck_rows = GraphEncoder(backbone.out_channels, backbone.out_strides, neck, outs)
    return detector(backbone, neck_rows)


def in_hybrid(**parts: Any) -> Detector:
    backbone = GraphBackbone(ROWS[0][0], OUTPUTS[0][0])
    return detector(backbone, hybrid(backbone, **parts))


def in_lite(**parts: Any) -> Detector:
    backbone = GraphBackbone(ROWS[0][0][:7], [6])
    return detector(
        backbone,
        LiteEncoder(backbone.out_channels, backbone.out_strides, 32, depth_mult=0.34, **parts),
    )


def in_hgnet(**parts: Any) -> Detector:
    backbone = hgnet(**parts)
    return detector(backbone, hybrid(backbone))


def in_presnet(**parts: Any) -> Detector:
    backbone = PResNet(18, freeze_norm=False, return_idx=[1, 2, 3], **parts)
    return detector(backbone, hybrid(backbone))


def with_fdpn() -> Detector:
    backbone = GraphBackbone(ROWS[0][0], OUTPUTS[0][0])
    encoder = FDPN(
        backbone.out_channels, hidden_dim=32, nhead=4, dim_feedforward=32, depth_mult=0.34
    )
    return detector(backbone, encoder)


CASES = [
    *(pytest.param(in_hybrid, parts, id=f"HybridEncoder-{parts}") for parts in HYBRID),
    *(pytest.param(in_lite, parts, id=f"LiteEncoder-{parts}") for parts in LITE),
    *(pytest.param(in_hgnet, parts, id=f"HGNetv2-{parts}") for parts in BACKBONE),
    *(pytest.param(in_presnet, parts, id=f"PResNet-{parts}") for parts in BACKBONE),
    *(pytest.param(graphs, {"number": i}, id=f"graphs-{i}") for i in range(len(ROWS))),
    pytest.param(with_fdpn, {}, id="FDPN"),
]


@pytest.mark.parametrize(("make", "parts"), CASES)
def test_it_learns_at_two_sizes(make: Callable[..., Detector], parts: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, criterion = make(**parts).train(), make_criterion("dfine")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for height, width in SIZES:
        total = losses_of(model, criterion, (height, width))
        assert total.isfinite()
        optimizer.zero_grad()
        total.backward()
        check_gradients(model)
        optimizer.step()
        assert all(p.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        found = model.eval()(torch.rand(1, 3, 96, 64))
    assert found["pred_boxes"].shape == (1, 10, 4)
    assert found["pred_boxes"].isfinite().all()


def losses_of(model: nn.Module, criterion: SetCriterion, size: tuple[int, int]) -> torch.Tensor:
    """The loss of two images with three boxes and none."""
    boxes = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.6, 0.5, 0.4, 0.3], [0.5, 0.7, 0.1, 0.4]])
    targets = [
        Target(boxes, torch.tensor([0, 3, 4]), image_id=0),
        Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), image_id=1),
    ]
    outputs = model(torch.rand(2, 3, *size), targets)
    return torch.stack(list(criterion(outputs, targets).values())).sum()


def check_gradients(model: nn.Module) -> None:
    """A finite one reached every parameter that learns."""
    learning = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, grad in learning.items() if grad is None]
    assert not [n for n, grad in learning.items() if grad is not None and not grad.isfinite().all()]
