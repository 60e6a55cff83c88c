"""Weights of a model with another number of queries: what carries over, and the report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.derive import TrainFlags, load_with_flags
from detrkit.engine.parts import build_model
from detrkit.engine.session import open_session, start_model
from detrkit.engine.weights import load_weights
from detrkit.errors import WeightsError
from tests.engine.tiny_data import write_coco, write_config
from tests.models.test_decoders import FAMILIES, make, maps

#: The argument that gives queries a learned content.
LEARNED = {name: "learn_query_content" for name in FAMILIES} | {"rtdetr": "learnt_init_query"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("queries", [4, 20])
def test_selected_queries_need_nothing(family: str, queries: int) -> None:
    """They are the encoder's best positions: no tensor depends on their number."""
    source, model = make(family), make(family, num_queries=queries)
    report = load_weights(model, source.state_dict())
    assert report.complete
    assert not report.by_query
    with torch.no_grad():
        out = model.eval()(maps())
    assert out["pred_logits"].shape[1] == queries


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("queries", [4, 20])
def test_learned_queries_keep_the_first_rows(family: str, queries: int) -> None:
    learned = {LEARNED[family]: True}
    source, model = make(family, **learned), make(family, **learned, num_queries=queries)
    with torch.no_grad():
        source.tgt_embed.weight.copy_(torch.arange(10.0)[:, None].expand(-1, 32))
    fresh = model.tgt_embed.weight.detach().clone()
    report = load_weights(model, source.state_dict(), source="their.pth")
    common = min(queries, 10)
    assert torch.equal(model.tgt_embed.weight[:common], source.tgt_embed.weight[:common])
    assert torch.equal(model.tgt_embed.weight[common:], fresh[common:])
    assert report.by_query == {"tgt_embed.weight": (10, queries)}
    assert report.complete
    assert report.total == len(report.copied)
    line = f"num_queries 10 -> {queries}: the first {common} rows of tgt_embed.weight"
    assert line in report.describe()
    assert ("the other 10 start from random" in report.describe()) == (queries == 20)
    assert report.to_dict()["by_query"] == {"tgt_embed.weight": [10, queries]}


def test_exact_wants_as_many_queries() -> None:
    source, model = (make("dfine", learn_query_content=True, num_queries=n) for n in (10, 4))
    with pytest.raises(WeightsError, match="other shapes"):
        load_weights(model, source.state_dict(), mode="exact")


def test_other_widths_are_other_shapes() -> None:
    source, model = (make("dfine", learn_query_content=True, hidden_dim=d) for d in (32, 40))
    report = load_weights(model, source.state_dict())
    assert "tgt_embed.weight" in report.mismatched


def test_a_run_says_that_the_number_has_changed(tmp_path: Path, repository: Path) -> None:
    data = write_coco(tmp_path / "data", train=2, val=1)
    config = write_config(tmp_path, repository)
    flags = TrainFlags(data=str(data), device="cpu", tune=str(tmp_path / "w.pth"))
    old = load_with_flags(config, flags)
    weights = build_model(old.with_values({"num_classes": 2})).state_dict()
    Checkpoint(model=weights, config=old.tree).save(tmp_path / "w.pth")
    for queries, said in ((20, None), (12, "num_queries 20 -> 12: selected by score")):
        update = [f"DFINETransformer.num_queries={queries}"]
        _, report = start_model(open_session(load_with_flags(config, flags, update=update)))
        assert report is not None
        assert report.to_dict()["num_queries"] == (None if said is None else [20, queries])
        assert (said or "loaded") in report.describe()
        assert "num_queries" not in report.describe() or said is not None
