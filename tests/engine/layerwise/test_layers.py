"""FLOPs, memory and times of layers: known stacks are known exactly, and pieces make the whole."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import detrkit
from detrkit.engine.inspect import Subject, inspect
from detrkit.engine.layerwise.counting import run_counted
from detrkit.engine.layerwise.running import above, totals
from detrkit.engine.layerwise.times import time_layers
from detrkit.engine.layerwise.training import training_memory
from detrkit.engine.model_report import SORTED_BY, ModelReport

FLOAT = 4


def convolutions(widths: list[int], stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*(nn.Conv2d(a, b, 3, stride, 1) for a, b in pairwise(widths)))


@settings(max_examples=12, deadline=None)
@given(
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    side=st.integers(2, 9),
    stride=st.sampled_from([1, 2]),
)
def test_a_stack_of_convolutions_is_known_exactly(
    widths: list[int], side: int, stride: int
) -> None:
    """In a sequence, a layer's input and output are alive together, and no others."""
    found = run_counted(
        convolutions(widths, stride).eval(), (torch.zeros(1, widths[0], side, side),)
    )
    sides = [side]
    for _ in widths[1:]:
        sides.append((sides[-1] - 1) // stride + 1)
    sizes = [FLOAT * c * s * s for c, s in zip(widths, sides, strict=True)]
    alive = [0, *sizes[1:]]  # the input is not counted
    for number, size in enumerate(sizes[1:]):
        name = str(number)
        assert found.kept[name] == size
        assert found.peak[name] == alive[number] + size
        expected = 2 * 9 * widths[number] * widths[number + 1] * sides[number + 1] ** 2
        assert found.flops[name] == {"convolution": expected}
    assert found.kept[""] == sizes[-1]
    assert found.peak[""] == max(a + b for a, b in pairwise(alive))


class Skips(nn.Module):
    """A skip connection, a result in place, a view and a head that is called from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.act = nn.ReLU(inplace=True)
        self.flat = nn.Flatten()
        self.caller = Caller(head := nn.Linear(48, 2))
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.conv(x)) + x
        out: Tensor = self.caller(self.flat(y))
        return out


class Caller(nn.Module):
    """Calls a layer that it does not own."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layers: list[Any] = [layer]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers[0](x)
        return out + F.linear(x, self.layers[0].weight)


def test_views_and_results_in_place_are_no_new_memory() -> None:
    found = run_counted(Skips().eval(), (torch.zeros(1, 3, 4, 4),))
    maps = FLOAT * 48
    assert found.kept["conv"] == maps
    assert found.kept["act"] == found.kept["flat"] == 0
    assert found.peak["act"] == maps  # what the convolution made
    assert found.peak["flat"] == maps  # of the sum; the convolution's is gone
    assert found.peak[""] == 2 * maps  # while the sum is made
    assert found.kept[""] == FLOAT * 2


def test_what_a_layer_does_belongs_to_its_own_name() -> None:
    """The head's product is the head's, though another layer calls it."""
    found = run_counted(Skips().eval(), (torch.zeros(1, 3, 4, 4),))
    product = 2 * 48 * 2
    assert found.flops["head"] == found.flops["caller"] == {"matrix product": product}
    report = inspect(Subject.of(Skips(), (4, 4)))
    by_name = {layer.name: layer for layer in report.layers}
    assert by_name["caller"].flops == by_name["head"].flops == product
    assert adds_up(report, "flops", "own_flops")


def adds_up(report: ModelReport, total: str, own: str) -> bool:
    """Whether what layers have themselves and what those below them have is what they have."""
    for layer in report.layers:
        below = [each for each in report.layers if each.name and above(each.name)[-2] == layer.name]
        parts = [getattr(each, total) or 0 for each in below] + [getattr(layer, own) or 0]
        if sum(parts) != pytest.approx(getattr(layer, total) or 0, rel=1e-9, abs=1e-12):
            return False
    return True


@pytest.fixture(scope="module")
def report() -> ModelReport:
    model = detrkit.build_model("deimv2_hgnetv2_atto_coco")
    return inspect(Subject.of(model, (64, 96), "atto"), seconds=1e-3, training=True)


def test_pieces_of_a_detector_make_the_whole(report: ModelReport) -> None:
    whole = report.layers[0]
    assert whole.flops == report.flops.torch == sum(layer.own_flops for layer in report.layers)
    assert whole.calflops == report.flops.calflops
    assert adds_up(report, "flops", "own_flops")
    assert adds_up(report, "milliseconds", "own_milliseconds")
    assert report.timing is not None
    assert whole.milliseconds == pytest.approx(report.timing.whole)
    assert report.training is not None
    assert report.training.whole == report.saved_by(whole)
    assert whole.peak_bytes == max(layer.peak_bytes or 0 for layer in report.layers)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("sort", SORTED_BY)
def test_a_list_of_layers_adds_up_too(report: ModelReport, depth: int, sort: str) -> None:
    pieces = report.cut(depth, sort)
    assert sum(piece.flops for piece in pieces) == report.flops.torch
    assert sum(piece.parameters for piece in pieces) == report.deployed
    times = sum(piece.milliseconds or 0 for piece in pieces)
    assert report.timing is not None
    assert times == pytest.approx(report.timing.whole)
    column = {"time": "milliseconds", "flops": "flops", "parameters": "parameters"}.get(sort)
    if column is not None:
        values = [getattr(piece, column) or 0 for piece in pieces]
        assert values == sorted(values, reverse=True)


def test_kinds_explain_how_the_counters_differ(report: ModelReport) -> None:
    flops = report.flops
    assert flops.calflops is not None
    assert sum(kind.torch for kind in flops.kinds) == flops.torch
    assert sum(kind.calflops or 0 for kind in flops.kinds) == flops.calflops
    differences = sum(kind.difference or 0 for kind in flops.kinds)
    assert differences == flops.elementwise - flops.unseen_attention
    for kind in flops.kinds:
        assert bool(kind.reason) == bool(kind.difference), kind
    assert any("does not see fused attention" in kind.reason for kind in flops.kinds)


def test_reasons_name_what_was_left_out() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.act = nn.SiLU()

        def forward(self, x: Tensor) -> Tensor:
            q = self.act(self.conv(x)).flatten(2).transpose(1, 2).contiguous()[None]
            return F.scaled_dot_product_attention(q, q, q)

    kinds = {kind.kind: kind for kind in inspect(Subject.of(Net(), (5, 5))).flops.kinds}
    assert kinds["Net"].reason == "calflops does not see fused attention"
    assert kinds["Net"].difference == -4 * 25 * 25 * 4
    assert kinds["Conv2d"].reason == "torch does not count the bias of conv2d"
    assert kinds["Conv2d"].difference == kinds["SiLU"].difference == 4 * 25
    assert kinds["SiLU"].reason == "torch does not count silu"


def test_training_saves_what_the_backward_pass_needs() -> None:
    """A convolution needs its input, a ReLU its output, which is the next one's input."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False), nn.Sigmoid()
    )
    found = training_memory(model, (torch.zeros(1, 3, 5, 7),))
    assert found.own == {"1": FLOAT * 4 * 35, "3": FLOAT * 2 * 35}  # the image is not counted
    assert found.whole == FLOAT * 6 * 35
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_layers_save_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 2, 1))
    model.requires_grad_(False)
    assert training_memory(model, (torch.zeros(1, 3, 5, 7),)).whole == 0


def test_memory_that_cannot_be_measured_says_why() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
    found = training_memory(model, (torch.zeros(1, 3, 4, 4),))
    assert found.whole is None
    assert "more than 1 value per channel" in found.problem


class Sleeps(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x


def test_time_belongs_to_the_layer_that_takes_it() -> None:
    model = nn.Sequential(Sleeps(0.001), nn.Sequential(Sleeps(0.02), Sleeps(0.0)))
    found = time_layers(model, lambda: model(torch.zeros(1)), passes=3)
    assert found.passes == 3
    assert found.calls == {"": 1, "0": 1, "1": 1, "1.0": 1, "1.1": 1}
    inclusive = totals(found.own)
    assert inclusive["1"] >= found.own["1.0"] >= 20  # sleep takes at least so long
    assert found.whole == pytest.approx(inclusive[""])


def test_hooks_are_gone_afterwards() -> None:
    model = Skips()
    inspect(Subject.of(model, (4, 4)), seconds=1e-3, training=True)
    assert model.training
    for module in model.modules():
        hooks: list[Any] = [module._forward_hooks, module._forward_pre_hooks]
        assert not any(hooks)
