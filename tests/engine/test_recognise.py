"""Weights without a configuration: which model they are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detrkit.config import load_config
from detrkit.config.catalogue import catalogue
from detrkit.engine import recognise as module
from detrkit.engine.parts import build_model
from detrkit.engine.recognise import (
    candidates,
    component,
    fingerprint,
    fingerprint_table,
    graph_signature,
    input_size_of,
    recognise,
)
from detrkit.engine.weights import config_of, open_detector
from detrkit.errors import ConfigError, WeightsError

TABLE = Path(module.__file__).with_name("fingerprints.json")

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> Callable[..., State]:
    """`state("dfine_n_coco", num_classes=3)`: shapes without values."""
    made: dict[str, State] = {}

    def make(name: str, **values: object) -> State:
        key = f"{name} {values}"
        if key not in made:
            cfg = load_config(name).with_values(values)
            with torch.device("meta"):
                made[key] = build_model(cfg).state_dict()
        return dict(made[key])

    return make


def test_every_config_is_in_the_table_once() -> None:
    """A new config or an old name: write the table anew (see `test_the_table_is_up_to_date`)."""
    table = json.loads(TABLE.read_text())
    listed = [name for graphs in table.values() for configs in graphs for name in configs]
    assert sorted(listed) == sorted(entry.name for entry in catalogue())


def test_some_of_the_table(state: Callable[..., State]) -> None:
    for name in ("dfine_hgnetv2_n_coco", "rtdetrv2_r18vd_120e_coco", "deimv2_hgnetv2_atto_coco"):
        assert name in [c.name for c in candidates(state(name))]


@pytest.mark.slow
def test_the_table_is_up_to_date() -> None:
    """`DETRKIT_WRITE=1 pytest -m slow tests/engine/test_recognise.py` writes it."""
    table = fingerprint_table(entry.name for entry in catalogue())
    if os.environ.get("DETRKIT_WRITE"):
        TABLE.write_text(json.dumps(table, indent=1) + "\n")
    assert json.loads(TABLE.read_text()) == table


def test_what_counts(state: Callable[..., State]) -> None:
    one = state("deimv2_hgnetv2_atto_coco")
    shapes = {name: tuple(value.shape) for name, value in one.items()}
    same = fingerprint(shapes)
    other_classes = state("deimv2_hgnetv2_atto_coco", num_classes=3)
    assert fingerprint({n: v.shape for n, v in other_classes.items()}) == same
    assert fingerprint(dict(reversed(shapes.items()))) == same
    derived = {n for n in shapes if n.endswith(("anchors", "valid_mask", "num_batches_tracked"))}
    assert derived
    assert fingerprint({n: s for n, s in shapes.items() if n not in derived}) == same
    weight = "encoder.input_proj.0.conv.weight"
    assert fingerprint({**shapes, weight: (1, *shapes[weight][1:])}) != same
    assert fingerprint({n: s for n, s in shapes.items() if n != weight}) != same
    assert fingerprint({**shapes, "more.weight": (1,)}) != same


def test_one_of_a_kind(state: Callable[..., State]) -> None:
    """The config for COCO stands for those of other data."""
    weights = state("deimv2_hgnetv2_atto_custom", num_classes=7)
    assert recognise(weights, "w.pth") == "deimv2_hgnetv2_atto_coco"


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("dfine_n_coco", ["dfine_hgnetv2_n_coco", "deim_hgnetv2_n_coco"]),
        ("rtdetrv2_r18vd_120e_coco", ["rtdetrv2_r18vd_120e_coco", "rtdetrv2_r18vd_dsp_3x_coco"]),
    ],
)
def test_equal_tensors_of_different_models(
    state: Callable[..., State], name: str, others: list[str]
) -> None:
    with pytest.raises(WeightsError, match="answer differently") as error:
        recognise(state(name), "best.pth")
    assert all(other in error.value.message for other in others)
    assert "--config" in (error.value.hint or "")


def test_the_authors_file_name_decides(state: Callable[..., State]) -> None:
    weights = state("dfine_n_coco")
    assert recognise(weights, "downloads/dfine_n_coco.pth") == "dfine_hgnetv2_n_coco"
    assert recognise(weights, "https://host/dfine_n_coco.pth#sha256=00000000") == (
        "dfine_hgnetv2_n_coco"
    )
    with pytest.raises(WeightsError, match="differently"):
        recognise(weights, "my_dfine_n_coco.pth")
    # a name alone proves nothing
    with pytest.raises(WeightsError, match="no config of the catalogue"):
        recognise({"x": torch.zeros(1)}, "dfine_n_coco.pth")


def test_the_anchors_tell_the_image_size(state: Callable[..., State]) -> None:
    cfg = load_config("deimv2_hgnetv2_atto_coco")
    assert cfg.run.eval_spatial_size == (320, 320)
    assert input_size_of(state("deimv2_hgnetv2_atto_coco"), cfg) is None
    other = state("deimv2_hgnetv2_atto_coco", image_size=[448, 448])
    assert input_size_of(other, cfg) == (448, 448)
    wide = state("deimv2_hgnetv2_atto_coco", image_size=[256, 544])
    assert input_size_of(wide, cfg) is None  # not a square's number of anchors
    without = {n: v for n, v in other.items() if "anchors" not in n}
    assert input_size_of(without, cfg) is None


def test_opened_without_a_config(tmp_path: Path) -> None:
    cfg = load_config("deimv2_hgnetv2_atto_coco", update=["num_classes=2", "image_size=[256,256]"])
    model = build_model(cfg, seed=0)
    torch.save({"ema": {"module": model.state_dict(), "updates": 1}}, tmp_path / "w.pth")
    opened = open_detector(tmp_path / "w.pth")
    assert opened.config.name == "deimv2_hgnetv2_atto_coco"
    assert opened.image_spec.size == (256, 256)
    assert opened.class_map.names == ("class 0", "class 1")
    assert torch.equal(
        opened.model.state_dict()["decoder.enc_score_head.weight"],
        model.state_dict()["decoder.enc_score_head.weight"],
    )


def test_a_given_config_wins() -> None:
    from detrkit.engine.checkpoint import Checkpoint

    cfg = config_of(Checkpoint(model={}), "w.pth", "dfine_n_coco")
    assert cfg.name == "dfine_hgnetv2_n_coco"


def test_graphs() -> None:
    """What trains a model differently does not make it another graph; activations do."""

    def signature(*update: str) -> str:
        return graph_signature(load_config("dfine_n_coco", update=list(update)))

    plain = signature()
    assert signature("HGNetv2.freeze_norm=True", "DFINETransformer.num_denoising=7") == plain
    assert signature("num_classes=3", "eval_spatial_size=[320,320]") == plain
    assert signature("DFINETransformer.activation=silu") != plain
    kind, arguments = component(load_config("dfine_n_coco"), "decoder")
    assert (kind, arguments["nhead"], arguments["hidden_dim"]) == ("DFINETransformer", 8, 128)
    with pytest.raises(ConfigError, match="has no `neck`"):
        component(load_config("dfine_n_coco"), "neck")
