"""Weights by name and by class name, from files and URLs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from detrkit.config import load_config
from detrkit.engine.class_matching import match_classes
from detrkit.engine.known_classes import coco_classes, objects365_classes
from detrkit.engine.weights import load_weights, read_checkpoint, read_state
from detrkit.errors import WeightsError
from detrkit.structures import ClassMap
from tests.engine.tiny_data import write_coco, write_config


class Decoder(nn.Module):
    """The class-dependent tensors of a D-FINE, and what depends on the image size."""

    def __init__(self, classes: int, anchors: int = 4) -> None:
        super().__init__()
        self.enc_score_head = nn.Linear(3, classes)
        self.dec_score_head = nn.ModuleList([nn.Linear(3, classes)])
        self.denoising_class_embed = nn.Embedding(classes + 1, 3, padding_idx=classes)
        self.dec_bbox_head = nn.Linear(3, 4)
        self.register_buffer("anchors", torch.zeros(anchors, 4))


class Model(nn.Module):
    def __init__(self, classes: int, anchors: int = 4) -> None:
        super().__init__()
        self.decoder = Decoder(classes, anchors)


def numbered(classes: int, anchors: int = 4) -> dict[str, Tensor]:
    """Row i of each class tensor is filled with i + 1."""
    state = Model(classes, anchors).state_dict()
    for value in state.values():
        for i in range(len(value)):
            value[i] = i + 1
    return state


def rows(value: Tensor) -> list[float]:
    return value.reshape(len(value), -1)[:, 0].tolist()


MINE = ClassMap(("Bird", "car", "person"), (1, 2, 3))
THEIRS = ClassMap(("person", "dog", "cars", "cat"), (10, 20, 30, 40))


def test_head_rows_follow_the_class_names() -> None:
    model = Model(3)
    before = model.decoder.enc_score_head.weight.detach().clone()
    report = load_weights(
        model, numbered(4), class_map=MINE, source_classes=THEIRS, source="their.pth"
    )
    after = model.decoder.enc_score_head.weight
    assert torch.equal(after[0], before[0])  # nobody knows birds
    assert rows(after)[1:] == [3, 1]
    assert rows(model.decoder.dec_score_head[0].bias)[1:] == [3, 1]  # type: ignore[arg-type]
    embedding = model.decoder.denoising_class_embed.weight
    assert rows(embedding)[1:] == [3, 1, 5]  # the last row is padding
    assert rows(model.decoder.dec_bbox_head.weight) == [1, 2, 3, 4]
    assert report.matched_classes == {"car": "cars", "person": "person"}
    assert report.new_classes == ["Bird"]
    text = report.describe()
    assert "new classes, from random: Bird" in text
    assert "car (from cars)" in text


def test_equal_counts_do_not_mean_equal_classes() -> None:
    swapped = ClassMap(("person", "Bird", "car"), (0, 1, 2))
    model = Model(3)
    load_weights(model, numbered(3), class_map=MINE, source_classes=swapped)
    assert rows(model.decoder.enc_score_head.weight) == [2, 3, 1]


def test_eighty_rows_are_coco() -> None:
    model = Model(3)
    load_weights(model, numbered(80), class_map=MINE)
    coco = coco_classes()
    wanted = [coco.names.index(name) + 1 for name in ("bird", "car", "person")]
    assert rows(model.decoder.enc_score_head.weight) == wanted
    assert (len(coco), coco.category_ids[0], coco.category_ids[-1]) == (80, 1, 90)
    assert coco.names[11] == "stop sign"


@pytest.mark.parametrize("count", [365, 366])
def test_objects365_heads(count: int) -> None:
    """The authors' 366 rows are indexed by category id; row 0 means nothing."""
    mine = ClassMap(("tvmonitor", "Person", "raccoon"), (0, 1, 2))
    model = Model(3)
    report = load_weights(model, numbered(count), class_map=mine)
    wanted = [objects365_classes().names.index(n) for n in ("Monitor/TV", "Person")]
    assert rows(model.decoder.enc_score_head.weight)[:2] == [w + 1 + count - 365 for w in wanted]
    embedding = model.decoder.denoising_class_embed.weight
    assert rows(embedding)[-1] == count + 1  # padding
    assert report.matched_classes == {"tvmonitor": "Monitor/TV", "Person": "Person"}
    assert report.new_classes == ["raccoon"]


def test_explicit_pairs_win() -> None:
    model = Model(3)
    pairs = {"Bird": "dog", "car": 3, "person": None}
    report = load_weights(
        model, numbered(4), class_map=MINE, source_classes=THEIRS, class_pairs=pairs
    )
    assert rows(model.decoder.enc_score_head.weight)[:2] == [2, 4]
    assert report.new_classes == ["person"]
    # numbers alone serve where the file's classes are not known
    load_weights(model, numbered(7), class_map=MINE, class_pairs={"Bird": 6, "car": 0})
    assert rows(model.decoder.enc_score_head.weight)[:2] == [7, 1]


def test_the_report_counts_each_tensor_once() -> None:
    state = numbered(4)
    state["decoder.extra.weight"] = torch.zeros(1)
    state["head.weight"] = torch.zeros(1)
    state["decoder.dec_bbox_head.weight"] = torch.zeros(5, 3)
    del state["decoder.dec_bbox_head.bias"]
    report = load_weights(Model(3), state, class_map=MINE, source_classes=THEIRS, source="w.pth")
    assert report.by_group() == {
        "decoder": {"loaded": 6, "missing": 1, "unexpected": 1, "mismatched": 1},
        "head": {"loaded": 0, "missing": 0, "unexpected": 1, "mismatched": 0},
    }
    assert report.total == len(Model(3).state_dict())
    assert not report.complete
    assert "loaded 6 of 8 tensors from w.pth (decoder 6/8)" in report.describe()
    assert report.to_dict()["groups"] == report.by_group()


def test_unknown_classes_of_another_count_are_left_out() -> None:
    model = Model(3)
    report = load_weights(model, numbered(7), class_map=MINE)
    assert "decoder.enc_score_head.weight" in report.mismatched
    assert "decoder.dec_bbox_head.weight" in report.loaded
    assert "other shapes" in report.describe()


def test_anchors_of_another_size_are_computed_not_loaded() -> None:
    model = Model(3, anchors=9)
    report = load_weights(model, numbered(3, anchors=4), mode="exact")
    assert rows(model.decoder.anchors) == [0.0] * 9  # type: ignore[arg-type]
    assert not report.mismatched


def test_exact_wants_everything() -> None:
    state = numbered(3)
    del state["decoder.dec_bbox_head.weight"]
    with pytest.raises(WeightsError, match=r"not in the file: decoder\.dec_bbox_head\.weight"):
        load_weights(Model(3), state, mode="exact", source="w.pth")
    with pytest.raises(WeightsError, match="other shapes"):
        load_weights(Model(4), numbered(3), mode="exact")
    load_weights(Model(3), state, mode="tune")


def test_nothing_fits() -> None:
    with pytest.raises(WeightsError, match="no tensor fits") as error:
        load_weights(Model(3), {"conv1.weight": torch.zeros(2)}, source="resnet.pth")
    assert "conv1.weight" in (error.value.hint or "")


@given(st.lists(st.text("ab_ s", min_size=1, max_size=3), min_size=1, max_size=6, unique=True))
def test_a_class_map_matches_itself(names: list[str]) -> None:
    classes = ClassMap.from_names(names)
    pairs = match_classes(classes, classes)
    assert set(pairs) == set(range(len(names)))
    # names that differ in spaces only count as the same
    assert all(
        names[a].translate({32: None, 95: None}) == names[b].translate({32: None, 95: None})
        for a, b in pairs.items()
    )


def test_urls_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETRKIT_CACHE", str(tmp_path / "cache"))
    torch.save({"model": numbered(3)}, tmp_path / "w.pth")
    url = (tmp_path / "w.pth").as_uri()
    assert len(read_state(url)) == 8
    (tmp_path / "w.pth").unlink()
    assert len(read_state(url)) == 8
    with pytest.raises(WeightsError, match="cannot download") as error:
        read_checkpoint((tmp_path / "absent.pth").as_uri())
    assert "by hand" in (error.value.hint or "")


def test_tuning_with_a_file_of_pairs(tmp_path: Path, repository: Path) -> None:
    """From the command's flags to the rows of the heads."""
    from detrkit.engine.derive import TrainFlags, load_with_flags
    from detrkit.engine.parts import build_model
    from detrkit.engine.session import open_session, start_model

    config = write_config(tmp_path, repository)
    data = write_coco(tmp_path / "data", train=2, val=1)
    theirs = build_model(load_config(config).with_values({"num_classes": 80}), seed=3).state_dict()
    torch.save({"model": theirs}, tmp_path / "theirs.pth")
    (tmp_path / "map.yml").write_text("green: person\nred: 3\n")
    flags = TrainFlags(
        data=str(data), tune=str(tmp_path / "theirs.pth"), class_map=str(tmp_path / "map.yml")
    )
    session = open_session(load_with_flags(config, flags))
    model, report = start_model(session)
    assert report is not None
    assert report.matched_classes == {"red": "motorcycle", "green": "person"}
    for name in ("decoder.enc_score_head.weight", "decoder.dec_score_head.1.bias"):
        own = model.state_dict()[name]
        assert torch.equal(own[[0, 1]], theirs[name][[3, 0]])
