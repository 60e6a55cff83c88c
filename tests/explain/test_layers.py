"""Names of layers, what they mean, and what is noted of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from detrkit.engine.predictor import Predictor
from detrkit.errors import UsageError
from detrkit.explain.layers import Layer, Recorder, choose, layers_of, list_layers, torch_runtime
from tests.engine.bright import bright_runtime


class Parts(nn.Module):
    """Tensors in every form that modules return; ReLU works in place behind `first`."""

    def __init__(self) -> None:
        super().__init__()
        self.second = Two()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.second(self.first(x))["answer"]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lists = Lists()

    def forward(self, x: Tensor) -> dict[str, object]:
        a, b = self.lists(x)
        return {"answer": {"sum": a.sum((1, 2, 3)) + b.sum((1, 2, 3))}, "both": (a, b)}


class Lists(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [2 * x, x[:, :, ::2]]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Parts().eval()


def names(layers: Sequence[Layer]) -> list[str]:
    return [layer.name for layer in layers]


def test_layers_in_the_order_of_the_image(model: nn.Module) -> None:
    layers = layers_of(model, torch.zeros(1, 3, 4, 6))
    assert names(layers) == [
        "first",
        "first.0",
        "first.1",
        "second.outputs[answer][sum]",
        "second.outputs[both][0]",
        "second.outputs[both][1]",
        "second.lists.outputs[0]",
        "second.lists.outputs[1]",
    ]
    assert (layers[1].kind, layers[1].shape) == ("Conv2d", (1, 4, 4, 6))
    assert (layers[-1].kind, layers[-1].shape) == ("Lists", (1, 4, 2, 6))


def test_layers_are_chosen_by_name_pattern_and_module(model: nn.Module) -> None:
    layers = layers_of(model, torch.zeros(1, 3, 4, 6))
    assert names(choose(layers, ["first.0"])) == ["first.0"]
    assert names(choose(layers, ["second.lists.outputs[1]"])) == ["second.lists.outputs[1]"]
    assert names(choose(layers, ["second.lists"])) == [
        "second.lists.outputs[0]",
        "second.lists.outputs[1]",
    ]
    assert names(choose(layers, ["first.?", "first.1"])) == ["first.0", "first.1"]
    assert names(choose(layers, ["*.lists.outputs[*]"])) == names(layers[-2:])
    with pytest.raises(UsageError, match=r"no layer `first\.9`, did you mean `first\.\d`\?"):
        choose(layers, ["first.9"])
    with pytest.raises(UsageError, match="no layer `unused`"):
        choose(layers, ["unused"])


def test_short_forms() -> None:
    found = [
        Layer(name, "X", (1, 2, 3, 4))
        for name in (
            "backbone.outputs[0]", "backbone.stem", "encoder.outputs[0]", "encoder.outputs[1]",
            "encoder.pan_blocks.0", "decoder.input_proj.0", "decoder.input_proj.0.conv",
            "decoder.outputs[pred_logits]",
        )
    ]  # fmt: skip
    assert names(choose(found, ["backbone"])) == ["backbone.outputs[0]"]
    assert names(choose(found, ["encoder"])) == ["encoder.outputs[0]", "encoder.outputs[1]"]
    assert names(choose(found, ["decoder"])) == ["decoder.input_proj.0"]
    assert len(choose(found, ["encoder.*"])) == 3


def test_what_is_noted_is_what_left_the_layer(model: nn.Module) -> None:
    images = torch.randn(2, 3, 4, 6)
    before = model(images)["sum"]
    wanted = ["first.0", "first", "second.lists.outputs[1]"]
    with Recorder(model, wanted) as recorded:
        after = model(images)["sum"]
    assert torch.equal(before, after)
    assert sorted(recorded.activations) == sorted(wanted)
    convolved = model.get_submodule("first.0")(images)
    assert torch.equal(recorded["first.0"], convolved)  # the ReLU behind it works in place
    assert torch.equal(recorded["first"], convolved.relu())
    assert torch.equal(recorded["second.lists.outputs[1]"], convolved.relu()[:, :, ::2])
    assert not model.get_submodule("first.0")._forward_hooks


def test_gradients(model: nn.Module) -> None:
    images = torch.randn(1, 3, 4, 6, requires_grad=True)
    with Recorder(model, ["first.0", "first", "second.lists.outputs[0]"]) as recorded:
        answer = model(images)["sum"]
    slopes = recorded.gradients(answer[0], keep_graph=True)
    assert torch.equal(slopes["second.lists.outputs[0]"], torch.ones(1, 4, 4, 6))
    rows = torch.tensor([3.0, 2, 3, 2]).view(1, 1, 4, 1)  # every other row counts once more
    assert torch.equal(slopes["first"], rows.expand(1, 4, 4, 6))
    assert torch.equal(slopes["first.0"], slopes["first"] * (recorded["first.0"] > 0))
    assert torch.equal(recorded.gradients(answer[0])["first"], slopes["first"])


def test_no_influence_is_a_gradient_of_zero(model: nn.Module) -> None:
    images = torch.randn(1, 3, 4, 6, requires_grad=True)
    with Recorder(model, ["first"]) as recorded:
        model(images)
    assert not recorded.gradients(images.sum())["first"].any()
    with torch.no_grad(), Recorder(model, ["first"]) as recorded:
        answer = model(images)["sum"]
    assert not recorded.gradients(answer[0])["first"].any()


def test_mistakes(model: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"no layer `third`"):
        Recorder(model, ["third"])
    with Recorder(model, ["unused"]) as recorded:
        model(torch.zeros(1, 3, 2, 2))
    with pytest.raises(UsageError, match="`unused` did not run"):
        recorded["unused"]


def test_only_checkpoints_are_open() -> None:
    runtime = bright_runtime()
    assert torch_runtime(Predictor(runtime)) is runtime
    assert names(list_layers(Predictor(runtime))) == ["dropout"]

    class Exported(type(runtime).__mro__[1]):  # type: ignore[misc]
        def predict(self, images: object, paths: object = None) -> list[object]:
            return []

    with pytest.raises(UsageError, match="an exported file") as caught:
        torch_runtime(Exported())
    assert ".pth" in str(caught.value.hint)
