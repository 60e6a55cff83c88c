"""Counting parameters and operations."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import detrkit
from detrkit.engine.inspect import inspect_model


class Small(nn.Module):
    """A convolution and a linear layer whose cost is known by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.tail = nn.ModuleList([nn.Linear(4, 5, bias=False)])
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.never = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = F.relu(self.conv(images))
        return {"out": self.tail[0](features.mean((2, 3)))}


def test_counts_by_hand() -> None:
    report = inspect_model(Small(), (8, 6), "small")
    conv = 2 * 8 * 6 * 4 * 3 * 9
    linear = 2 * 4 * 5
    assert report.parameters == report.trainable == report.deployed == 3 * 4 * 9 + 20 + 6
    assert report.parts == {"tail": 20, "conv": 108, "never": 6}
    assert report.flops.torch == conv + linear
    assert report.flops.torch_by_kind == {"convolution": conv, "matrix product": linear}
    assert report.flops.macs == (conv + linear) // 2
    assert report.flops.calflops == conv + linear + 8 * 6 * 4  # and the ReLU
    assert report.flops.elementwise == 8 * 6 * 4
    assert report.flops.unseen_attention == 0


def test_a_model_fused_for_inference_costs_what_it_cost() -> None:
    """Its layers run operators of oneDNN, which no counter knows."""
    model = detrkit.build_model("deimv2_hgnetv2_atto_coco").eval()
    plain = inspect_model(model, (64, 64)).flops
    fused = inspect_model(model.deploy(fold_norms=True), (64, 64)).flops
    assert fused.macs == plain.macs
    assert fused.torch == plain.torch


def test_layers_in_the_order_of_use() -> None:
    report = inspect_model(Small(), (8, 6))
    assert [layer.name for layer in report.layers] == ["", "conv", "tail", "tail.0", "never"]
    by_name = {layer.name: layer for layer in report.layers}
    assert by_name["conv"].output == ((1, 4, 8, 6),)
    assert by_name[""].output == ((1, 5),)
    assert by_name["tail"].flops == by_name["tail.0"].flops == 40
    assert by_name["never"].flops == 0
    assert by_name["tail.0"].depth == 2


def test_the_model_is_unchanged() -> None:
    model = Small().train()
    state, modules = copy.deepcopy(model.state_dict()), dict(vars(model.conv))
    inspect_model(model, (8, 6))
    assert model.training
    assert vars(model.conv).keys() == modules.keys()
    assert all(
        torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True)
    )
    assert not model.conv._forward_hooks


def test_torch_is_unpatched_also_after_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    class Failing(Small):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            if F.linear is not linear:  # only under calflops
                raise NotImplementedError("op not supported")
            return super().forward(images)

    linear, add = F.linear, torch.Tensor.add
    report = inspect_model(Failing(), (8, 6))
    assert F.linear is linear
    assert torch.Tensor.add is add
    assert report.flops.calflops is None
    assert "op not supported" in report.flops.problem
    assert report.flops.torch > 0
    assert report.flops.unseen_attention == report.flops.elementwise == 0
    assert capsys.readouterr().out == ""


def test_frozen_and_shared_parameters() -> None:
    model = Small()
    model.conv.requires_grad_(False)
    model.never.weight = model.never.weight
    report = inspect_model(model, (8, 6))
    assert report.parameters - report.trainable == 108


def test_plain_values() -> None:
    report = inspect_model(Small(), (8, 6), "small")
    assert "layers" not in report.to_dict()
    names = [layer["name"] for layer in report.to_dict(report.rows(1))["layers"]]
    assert names == ["", "conv", "tail", "never"]


@pytest.mark.parametrize(
    ("name", "total", "published"),
    [("dfine_n_coco", 3_782_693, 7), ("dfine_s_coco", 10_321_877, 25)],
)
def test_dfine_as_published(name: str, total: int, published: int) -> None:
    """The sizes and GFLOPs that the authors print for 640 x 640."""
    report = inspect_model(detrkit.build_model(name), (640, 640))
    assert report.flops.calflops is not None
    assert round(report.flops.calflops / 1e9) == published
    assert report.parameters == total
    assert report.deployed < report.parameters
    # the two counters differ by what one of them does not look at, and by nothing else
    assert report.flops.unseen_attention == report.flops.torch_by_kind["attention"]
    assert 0 < report.flops.elementwise < 0.02 * report.flops.calflops
