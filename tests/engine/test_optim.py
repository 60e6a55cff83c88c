"""Parameter groups and the optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detrkit.engine.optim import (
    build_optimizer,
    group_names,
    load_optimizer_state,
    parameter_groups,
    set_lr_factor,
)
from detrkit.errors import ConfigError


def model() -> nn.Module:
    net = nn.ModuleDict(
        {
            "backbone": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
            "decoder": nn.ModuleDict({"norm": nn.LayerNorm(4), "linear": nn.Linear(4, 2)}),
        }
    )
    net["backbone"][0].bias.requires_grad_(False)
    return net


SECTION = {
    "type": "AdamW",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "params": [
        {"params": "^(?=.*backbone).*$", "lr": 1e-4},
        {"params": "^(?=.*decoder)(?=.*norm).*$", "weight_decay": 0.0},
    ],
}


def test_groups_in_order() -> None:
    groups = parameter_groups(model(), SECTION["params"])  # type: ignore[arg-type]
    assert [g.pattern for g in groups] == [
        "^(?=.*backbone).*$",
        "^(?=.*decoder)(?=.*norm).*$",
        None,
    ]
    assert groups[0].names == ["backbone.0.weight", "backbone.1.weight", "backbone.1.bias"]
    assert groups[2].names == ["decoder.linear.weight", "decoder.linear.bias"]


def test_optimizer_has_the_groups_values() -> None:
    optimizer = build_optimizer(SECTION, model())
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (1e-4, 0.01),
        (1e-3, 0.0),
        (1e-3, 0.01),
    ]
    set_lr_factor(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [5e-5, 5e-4, 5e-4]
    set_lr_factor(optimizer, 1.0)
    assert optimizer.param_groups[0]["lr"] == 1e-4
    assert SECTION["type"] == "AdamW"  # the configuration was not eaten


def test_a_pattern_without_matches_stays_as_an_empty_group() -> None:
    groups = [{"params": "nothing"}, {"params": "back", "lr": 1.0}]
    optimizer = build_optimizer({"type": "SGD", "lr": 0.1, "params": groups}, model())
    assert [len(g["params"]) for g in optimizer.param_groups] == [0, 3, 4]
    loss = sum(p.sum() for g in optimizer.param_groups for p in g["params"])
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    optimizer.step()


def test_all_problems_at_once() -> None:
    groups = [{"params": "backbone"}, {"params": "("}, {"params": "0.weight"}, {"lr": 1.0}]
    with pytest.raises(ConfigError) as error:
        parameter_groups(model(), groups)
    assert len(error.value.problems) == 3
    assert "not a valid expression" in error.value.message
    assert "backbone.0.weight" in error.value.message


def test_unknown_optimizer() -> None:
    with pytest.raises(ConfigError, match="did you mean `Adam"):
        build_optimizer({"type": "AdamV", "lr": 1.0}, model())


def test_groups_are_named_by_what_they_reach() -> None:
    net = model()
    names = group_names(build_optimizer(SECTION, net), net)
    assert names == {"backbone": 0, "decoder_no_decay": 1, "decoder": 2}
    one = {"type": "AdamW", "lr": 1e-3}
    assert group_names(build_optimizer(one, net), net) == {"all": 0}
    twice = {**one, "params": [{"params": "decoder.norm"}, {"params": "decoder.linear"}]}
    assert group_names(build_optimizer(twice, net), net) == {
        "decoder": 0, "decoder-2": 1, "backbone": 2
    }  # fmt: skip
    # the authors' files have groups without parameters
    empty = {**one, "params": [{"params": "nothing", "weight_decay": 0.0}]}
    assert group_names(build_optimizer(empty, net), net) == {"all": 1}
    net["encoder"] = nn.Linear(1, 1)  # parts in the order in which an image passes them
    rest = {**one, "params": [{"params": "backbone"}]}
    assert list(group_names(build_optimizer(rest, net), net)) == ["backbone", "encoder_decoder"]


def test_the_state_follows_the_layout_of_the_parameters() -> None:
    """The fused optimizers read both side by side; a wrong layout would be silent."""

    def after_two_steps(first: torch.memory_format, second: torch.memory_format) -> torch.Tensor:
        net = nn.Conv2d(3, 4, 3).to(memory_format=first)
        nn.init.constant_(net.weight, 0.5)
        section = {"type": "AdamW", "lr": 0.1}
        optimizer = build_optimizer(section, net)
        noise = torch.Generator().manual_seed(0)
        for _ in range(2):
            grad = torch.randn(net.weight.shape, generator=noise)
            net.weight.grad = torch.empty_like(net.weight).copy_(grad)
            optimizer.step()
            state = optimizer.state_dict()
            net = net.to(memory_format=second)
            optimizer = build_optimizer(section, net)
            load_optimizer_state(optimizer, state)
        return net.weight.detach()

    plain, last = torch.contiguous_format, torch.channels_last
    expected = after_two_steps(plain, plain)
    assert torch.equal(after_two_steps(plain, last), expected)
    assert torch.equal(after_two_steps(last, plain), expected)
