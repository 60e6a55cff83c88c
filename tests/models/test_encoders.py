"""The encoders: every version against numbers of the official modules, fusing, sizes, errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.export.pieces import ElanInPieces, in_pieces
from detrkit.layers.conv import fold_sequences
from detrkit.models.encoders.blocks import CSPLayer, RepNCSPELAN
from detrkit.models.encoders.factored import ConvOfPair, take_joins_apart
from detrkit.models.encoders.hybrid_encoder import HybridEncoder
from detrkit.models.encoders.lite_encoder import LiteEncoder
from tests.models.waves import digest, fill, wave

WIDTHS, SHAPES = (24, 32, 48), ((12, 16), (6, 8), (3, 4))
SMALL: dict[str, Any] = {
    "in_channels": WIDTHS, "hidden_dim": 32, "nhead": 4, "dim_feedforward": 64,
    "depth_mult": 0.67, "expansion": 0.5,
}  # fmt: skip
DEIMV2 = {"project_equal": False}
#: What distinguishes a version, and the digests of the official module's maps.
RTDETR = [
    (0.528363270068, 0.736083710889),
    (1.226326285981, 1.374550897525),
    (7.031075372677, 7.089993134468),
]
GOLDEN: list[tuple[dict[str, Any], list[tuple[float, float]]]] = [
    ({"version": "v1"}, RTDETR),
    ({"version": "v2"}, RTDETR),
    ({"version": "rt_detrv2"}, RTDETR),
    (
        {},
        [
            (1.140605000365, 1.294471006263),
            (0.902387157311, 1.083218092159),
            (0.84255625316, 1.0281069693),
        ],
    ),
    (
        {"csp_type": "csp2", **DEIMV2},
        [
            (0.254792695552, 0.413861606536),
            (0.076876022596, 0.244328888025),
            (0.242233737922, 0.447858987602),
        ],
    ),
    (
        {"csp_type": "csp2", "fuse_op": "sum", **DEIMV2},
        [
            (1.580337478839, 1.745624605842),
            (3.988224924691, 4.059596774063),
            (3.176185949953, 3.25708631887),
        ],
    ),
    (
        {"version": "deim", **DEIMV2},
        [
            (0.079520541617, 0.23692273838),
            (0.357827482946, 0.590820397379),
            (0.453282001984, 0.631122185672),
        ],
    ),
    (
        {"version": "deim", "csp_type": "csp2", "fuse_op": "sum", **DEIMV2},
        [
            (0.210273515156, 0.390423841905),
            (1.037140269804, 1.213943246039),
            (1.882951613957, 2.051685953523),
        ],
    ),
]
IDS = ["-".join(v for v in o.values() if isinstance(v, str)) or "dfine" for o, _ in GOLDEN]
VERSIONS = [pytest.param(options, id=i) for i, (options, _) in zip(IDS, GOLDEN, strict=True)]


def inputs(
    widths: tuple[int, ...] = WIDTHS, shapes: tuple[tuple[int, int], ...] = SHAPES
) -> list[Tensor]:
    return [wave((2, c, *s), i) for i, (c, s) in enumerate(zip(widths, shapes, strict=True))]


def fused(module: nn.Module) -> nn.Module:
    """A copy in which every layer that can has become one convolution."""
    deployed = copy.deepcopy(module).eval()
    for layer in list(deployed.modules()):
        if hasattr(layer, "convert_to_deploy"):
            layer.convert_to_deploy()
    return deployed


@pytest.mark.parametrize(("options", "expected"), GOLDEN, ids=IDS)
@torch.no_grad()
def test_numbers_of_the_official_modules(
    options: dict[str, Any], expected: list[tuple[float, float]]
) -> None:
    encoder = fill(HybridEncoder(**SMALL, **options)).eval()
    for ours, theirs in zip(digest(encoder(inputs())), expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9)


@torch.no_grad()
def test_lite_encoder_has_the_official_numbers() -> None:
    encoder = fill(LiteEncoder([24], [16], 32, 0.34, 0.67)).eval()
    fine, coarse = digest(encoder(inputs(WIDTHS[:1], SHAPES[:1])))
    assert fine == pytest.approx((1.291676762456, 1.451106628553), abs=1e-9)
    assert coarse == pytest.approx((2.946618749915, 3.036977913524), abs=1e-9)


@pytest.mark.parametrize("options", VERSIONS)
@torch.no_grad()
def test_fused_encoders_answer_the_same(options: dict[str, Any]) -> None:
    encoder = fill(HybridEncoder(**SMALL, **options)).eval()
    deployed = fused(encoder)
    assert sum(p.numel() for p in deployed.parameters()) < sum(
        p.numel() for p in encoder.parameters()
    )
    norms = {n for n, m in deployed.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert all(name.startswith("input_proj") for name in norms)  # as the authors' deploy()
    for ours, expected in zip(deployed(inputs()), encoder(inputs()), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("shapes", [SHAPES, ((7, 11), (4, 6), (2, 3)), ((1, 1),) * 3], ids=str)
@pytest.mark.parametrize("options", VERSIONS)
@torch.no_grad()
def test_joins_taken_apart_answer_the_same(
    options: dict[str, Any], shapes: tuple[tuple[int, int], ...]
) -> None:
    encoder = fill(HybridEncoder(**SMALL, **options)).eval()
    deployed = fused(encoder)
    fold_sequences(deployed)
    assert isinstance(deployed, HybridEncoder)
    take_joins_apart(deployed)
    pairs = [m for m in deployed.modules() if isinstance(m, ConvOfPair)]
    concatenated = options.get("fuse_op") != "sum"
    assert bool(pairs) == concatenated
    # widths 24 and 32 become 32: straight from 24 to the block's 64 is cheaper than through 32
    projections = [isinstance(p, nn.Identity) for p in deployed.input_proj]
    if concatenated and options.get("project_equal", True):
        assert projections == [True, True, False]
    maps = inputs(WIDTHS, shapes)
    for ours, expected in zip(deployed(maps), encoder(maps), strict=True):
        torch.testing.assert_close(ours, expected)


@torch.no_grad()
@pytest.mark.parametrize("chosen", [{}, {"block": "C2f"}], ids=["apart", "joined"])
@pytest.mark.parametrize("options", VERSIONS)
def test_blocks_in_pieces(options: dict[str, Any], chosen: dict[str, Any]) -> None:
    """Neither splits nor, in blocks, concatenations are left; the answer is the same."""
    encoder = fill(HybridEncoder(**SMALL, **options, **chosen)).eval()
    deployed = fused(encoder)
    fold_sequences(deployed)
    assert isinstance(deployed, HybridEncoder)
    take_joins_apart(deployed)
    before = {type(m) for m in deployed.modules()}
    in_pieces(deployed)
    kinds = {type(m) for m in deployed.modules()}
    assert (ElanInPieces in kinds) == (RepNCSPELAN in before)
    assert RepNCSPELAN not in kinds
    assert not any(isinstance(m, CSPLayer) and m.split for m in deployed.modules())
    maps = inputs(WIDTHS)
    for ours, expected in zip(deployed(maps), encoder(maps), strict=True):
        torch.testing.assert_close(ours, expected)


@torch.no_grad()
def test_joins_with_chosen_modules_stay() -> None:
    for chosen in ({"block": "C2f"}, {"fusion": "MFM"}, {"upsample": "DySample"}):
        deployed = fused(HybridEncoder(**SMALL, **chosen))  # type: ignore[arg-type]
        assert isinstance(deployed, HybridEncoder)
        take_joins_apart(deployed)
        assert not any(isinstance(m, ConvOfPair) for m in deployed.modules())


@torch.no_grad()
def test_fused_lite_encoder_answers_the_same() -> None:
    encoder = fill(LiteEncoder([24], [16], 32)).eval()
    maps = inputs(WIDTHS[:1], SHAPES[:1])
    deployed = fused(encoder)
    for pieces in (False, True):
        if pieces:
            in_pieces(deployed)
            assert any(isinstance(m, ElanInPieces) for m in deployed.modules())
        for ours, expected in zip(deployed(maps), encoder(maps), strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("options", VERSIONS)
def test_odd_sizes_and_learning(options: dict[str, Any]) -> None:
    """Every parameter gets a gradient; maps keep their sizes, down to one pixel."""
    torch.manual_seed(0)
    encoder = HybridEncoder(**SMALL, **options).train()
    shapes = ((7, 11), (4, 6), (2, 3))
    maps = encoder([x.float() for x in inputs(WIDTHS, shapes)])
    assert [tuple(x.shape[2:]) for x in maps] == list(shapes)
    assert [x.shape[1] for x in maps] == encoder.out_channels
    torch.stack([(x * torch.randn_like(x)).sum() for x in maps]).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    smallest = encoder.eval()([torch.randn(1, c, 1, 1) for c in WIDTHS])
    assert [tuple(x.shape[2:]) for x in smallest] == [(1, 1)] * 3


def test_lite_encoder_takes_odd_sizes() -> None:
    encoder = LiteEncoder([24], [16], 32)
    assert encoder.out_strides == [16, 32]
    fine, coarse = encoder([torch.randn(2, 24, 7, 11)])
    assert (tuple(fine.shape), tuple(coarse.shape)) == ((2, 32, 7, 11), (2, 32, 4, 6))
    (fine.square().mean() + coarse.square().mean()).backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_no_attention_layers() -> None:
    encoder = HybridEncoder(**SMALL, num_encoder_layers=0)
    assert not list(encoder.encoder.parameters())
    assert len(encoder([x.float() for x in inputs()])) == 3


def test_maps_of_the_right_width_can_pass_unprojected() -> None:
    arguments = {**SMALL, "in_channels": (24, 32, 32)}
    encoder = HybridEncoder(**arguments, project_equal=False)
    assert [isinstance(p, nn.Identity) for p in encoder.input_proj] == [False, True, True]
    assert not any(isinstance(p, nn.Identity) for p in HybridEncoder(**arguments).input_proj)
    x = [torch.randn(2, c, *s) for c, s in zip((24, 32, 32), SHAPES, strict=True)]
    assert [m.shape[1] for m in encoder(x)] == [32, 32, 32]


def test_names_of_the_first_version() -> None:
    names = set(HybridEncoder(**SMALL, version="v1").state_dict())
    assert {"input_proj.0.0.weight", "input_proj.0.1.running_mean"} <= names
    assert {n for n in names if not n.startswith("input_proj")} == {
        n
        for n in HybridEncoder(**SMALL, version="v2").state_dict()
        if not n.startswith("input_proj")
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": "dfin"}, r"HybridEncoder\.version: no `dfin`, did you mean `dfine`\?"),
        ({"csp_type": "csp3"}, r"HybridEncoder\.csp_type: no `csp3`"),
        ({"fuse_op": "add"}, r"HybridEncoder\.fuse_op: no `add`"),
        ({"feat_strides": (8, 16)}, "3 in_channels but 2 feat_strides"),
        ({"use_encoder_idx": (3,)}, r"use_encoder_idx: \[3\] must be below 3"),
        ({"hidden_dim": 30}, "hidden_dim: 30 is not divisible"),
        ({"act": "sillu"}, "unknown activation `sillu`, did you mean `silu`"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HybridEncoder(**{**SMALL, **arguments})


def test_lite_encoder_takes_one_map() -> None:
    with pytest.raises(ConfigError, match="takes one map"):
        LiteEncoder([64, 128], [8, 16])
    with pytest.raises(ConfigError, match="csp_type"):
        LiteEncoder([64], [16], csp_type="csp3")


def test_wrong_number_of_maps() -> None:
    with pytest.raises(ValueError, match="2 maps for 3 in_channels"):
        HybridEncoder(**SMALL)([torch.randn(1, 24, 4, 4)] * 2)


@pytest.mark.parametrize("split", [False, True])
@torch.no_grad()
def test_csp_layer_is_its_definition(split: bool) -> None:
    layer = fill(CSPLayer(6, 8, num_blocks=2, expansion=0.5, split=split)).eval()
    x = wave((1, 6, 5, 4), 0)
    if split:
        both = layer.conv1(x)
        short, main = both[:, :4], both[:, 4:]
    else:
        main, short = layer.conv1(x), layer.conv2(x)
    for block in layer.bottlenecks:
        main = block(main)
    torch.testing.assert_close(layer(x), layer.conv3(main + short))


@torch.no_grad()
def test_gelan_is_its_definition() -> None:
    block = fill(RepNCSPELAN(6, 8, 10, 4, num_blocks=1, smooth=False)).eval()
    assert len(block.cv2) == len(block.cv3) == 1
    x = wave((1, 6, 5, 4), 0)
    first, second = block.cv1(x).split(5, dim=1)
    third = block.cv2(second)
    expected = block.cv4(torch.cat([first, second, third, block.cv3(third)], dim=1))
    torch.testing.assert_close(block(x), expected)
