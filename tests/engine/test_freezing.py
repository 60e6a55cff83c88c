"""Parts that keep their weights: which, in which mode, and that they do."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from detrkit.api import build_model
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.distributed.sync_bn import with_synchronized_norms
from detrkit.engine.ema import ModelEMA
from detrkit.engine.freezing import freeze
from detrkit.engine.optim import build_optimizer
from detrkit.errors import ConfigError
from tests.engine.toy import trainer

UPDATE = ["HGNetv2.pretrained=False", "image_size=[64, 64]"]
WEIGHTS = ("weight", "bias")


class Parts(nn.Module):
    """A backbone of two stages and a decoder, with batch norms in all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(
            {"stem": nn.Linear(2, 3), "stages": nn.ModuleList([block(), block()])}
        )
        self.decoder = block()


def block() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5))


def frozen_names(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if not p.requires_grad}


def test_a_part_with_everything_below_it() -> None:
    model = Parts()
    frozen = freeze(model, ["backbone"])
    assert frozen_names(model) == {n for n, _ in model.named_parameters() if "backbone" in n}
    assert frozen.norms == ("backbone.stages.0.1", "backbone.stages.1.1")
    assert frozen.describe() == "frozen: backbone (0.00 M of 0.00 M parameters)"
    assert (frozen.parameters, frozen.total) == (45, 63)


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("backbone.stem", {"backbone.stem.weight", "backbone.stem.bias"}),
        ("*.stem.weight", {"backbone.stem.weight"}),
        ("backbone.stages.*.1", {f"backbone.stages.{i}.1.{w}" for i in (0, 1) for w in WEIGHTS}),
    ],
)
def test_patterns(part: str, names: set[str]) -> None:
    model = Parts()
    freeze(model, [part])
    assert frozen_names(model) == names


def test_only_norms_of_frozen_parts_leave_training_mode() -> None:
    model = Parts()
    frozen = freeze(model, ["backbone"])
    model.train()
    frozen.keep(model)
    stopped = {name for name, module in model.named_modules() if not module.training}
    assert stopped == {"backbone.stages.0.1", "backbone.stages.1.1"}


def test_freeze_bn_takes_all_of_them_and_changes_no_name() -> None:
    model = Parts()
    before = list(model.state_dict())
    frozen = freeze(model, [], batch_norms=True)
    assert list(model.state_dict()) == before
    assert frozen.norms == ("backbone.stages.0.1", "backbone.stages.1.1", "decoder.1")
    assert frozen_names(model) == {f"{norm}.{w}" for norm in frozen.norms for w in WEIGHTS}
    assert frozen.describe().startswith("frozen: all batch norms (")


def test_nothing_named_nothing_frozen() -> None:
    model = Parts()
    assert freeze(model, []).describe() == ""
    assert not frozen_names(model)


def test_unknown_names_are_told_together_with_near_ones() -> None:
    with pytest.raises(ConfigError) as error:
        freeze(Parts(), ["backbon", "backbone.stage.0", "decoder", "neck*"])
    assert error.value.message.splitlines() == [
        "nothing to freeze under 3 names",
        "  freeze: backbon  no part of the model has this name, did you mean `backbone`?",
        "  freeze: backbone.stage.0  no part of the model has this name, "
        "did you mean `backbone.stages.0`?",
        "  freeze: neck*  no part of the model has this name",
    ]
    assert "parts: backbone, decoder" in (error.value.hint or "")


def test_something_must_be_left() -> None:
    with pytest.raises(ConfigError, match=r"freeze: backbone, decoder: nothing is left to train"):
        freeze(Parts(), ["backbone", "decoder"])
    with pytest.raises(ConfigError, match="nothing is left"):
        freeze(Parts(), ["*"])


def test_frozen_norms_survive_copies_and_synchronisation() -> None:
    model = Parts()
    frozen = freeze(model, ["backbone"], batch_norms=True)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.train()
        frozen.keep(other)
        assert not any(other.get_submodule(name).training for name in frozen.norms)
        assert frozen_names(other) == frozen_names(model)
    assert pickle.loads(pickle.dumps(frozen)) == frozen
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    for other in (synchronised, with_synchronized_norms(model, torch.device("cpu"))):
        other.train()
        frozen.keep(other)
        assert not any(other.get_submodule(name).training for name in frozen.norms)
        assert not any(p.requires_grad for p in other.get_submodule("decoder.1").parameters())


@pytest.mark.parametrize("batch_norms", [False, True])
def test_training_leaves_them_bit_for_bit(tmp_path: Path, batch_norms: bool) -> None:
    run = trainer(tmp_path, epochs=3)
    before = copy.deepcopy(run.model.state_dict())
    run.frozen = freeze(run.model, [] if batch_norms else ["net.0"], batch_norms=batch_norms)
    run.optimizer = build_optimizer({"type": "AdamW", "lr": 0.01}, run.model)
    run.ema = ModelEMA(run.model, 0.9, 3)
    run.parameters = [p for p in run.model.parameters() if p.requires_grad]
    run.fit()
    kept = "net.1." if batch_norms else "net.0."
    names = [name for name in before if name.startswith(kept)]
    assert len(names) == (5 if batch_norms else 2)
    for name, value in before.items():
        if not value.is_floating_point():
            continue  # averages leave counters alone in any case
        for state in (run.model.state_dict(), run.ema.module.state_dict()):
            assert torch.equal(state[name], value) == (name in names), name
    saved = Checkpoint.load(tmp_path / "last.pth")
    assert saved.optimizer is not None
    count = sum(len(group["params"]) for group in saved.optimizer["param_groups"])
    assert count == len(run.parameters)


def test_a_frozen_decoder_still_trains_like_a_decoder() -> None:
    """Denoising and auxiliary outputs belong to training mode: only norms may leave it."""
    model = build_model("dfine_hgnetv2_n_coco", update=UPDATE)
    frozen = freeze(model, ["decoder", "encoder"])
    model.train()
    frozen.keep(model)
    assert model.decoder.training  # type: ignore[union-attr]
    assert model.encoder.training  # type: ignore[union-attr]
    assert frozen.norms
    assert all(name.startswith(("decoder", "encoder")) for name in frozen.norms)
    assert {name.partition(".")[0] for name in frozen_names(model)} >= {"decoder", "encoder"}
