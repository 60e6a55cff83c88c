"""Denoising groups against the authors' structure, and their own laws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from detrkit.models.denoising import denoising_queries, draw_negatives
from detrkit.ops.boxes import box_iou, cxcywh_to_xyxy
from detrkit.structures import Target
from tests.reference.denoising import FAMILIES, results

CASES = [
    # DEIM's groups are D-FINE's: once more on request
    pytest.param(f"{family}_{case}", marks=pytest.mark.slow if "deim" in family else ())
    for family in FAMILIES
    for case in ("all_empty", "one_image_empty", "three_images", "more_boxes_than_denoising")
]


def batch(counts: list[int], num_classes: int = 5) -> list[Target]:
    return [Target(torch.rand(n, 4) * 0.4 + 0.3, torch.randint(num_classes, (n,))) for n in counts]


@pytest.mark.parametrize("case", CASES)
def test_structure_is_the_authors(reference: Path, case: str) -> None:
    path = reference / "parity" / "denoising" / f"{case}.json"
    expected = json.loads(path.read_text(encoding="utf-8"))
    stored = np.load(path.with_suffix(".npz"))
    ours = results(path)
    statistics = expected.pop("statistics", None)
    assert {key: ours[key] for key in expected} == expected
    if statistics is None:  # no denoising queries
        return
    arrays = ("attn_mask_packed", "query_class_without_noise", "query_is_negative", "query_is_real")
    for key in arrays:
        assert (ours[key] == stored[key]).all(), key

    found = ours["statistics"]
    assert set(found) == set(statistics)
    if set(found) == {"draws"}:  # dummy pairs only
        return
    share = "share_of_labels_that_changed"
    assert found[share] == pytest.approx(statistics[share], abs=0.01)
    for key in (
        "padding_class_never_changes",
        "padding_box_is_constant",
        "boxes_inside_unit_square",
    ):
        assert found[key] is True, key
    assert found["padding_box_unact"] == pytest.approx(statistics["padding_box_unact"])
    for key in ("positive_shift", "negative_shift"):
        for part in ("low", "mean", "high"):
            assert found[key][part] == pytest.approx(statistics[key][part], abs=0.01), (key, part)


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(0, 12), min_size=1, max_size=4), wanted=st.integers(1, 40))
def test_positives_are_the_boxes_and_groups_are_closed(counts: list[int], wanted: int) -> None:
    targets = batch(counts)
    embed = nn.Embedding(6, 8, padding_idx=5)
    noisy = denoising_queries(targets, embed, 7, wanted, label_noise_ratio=0, box_noise_scale=0)
    dn, ordinary = noisy.meta["dn_num_split"]
    assert ordinary == 7
    assert noisy.content.shape == (len(counts), dn, 8)
    positive = noisy.meta["dn_positive_idx"]
    if max(counts) == 0:
        assert (dn, positive, noisy.allowed) == (0, None, None)
        return
    groups = noisy.meta["dn_num_group"]
    assert positive is not None
    assert groups == max(wanted // max(counts), 1)
    boxes = noisy.box_logits.sigmoid()
    for i, (target, index) in enumerate(zip(targets, positive, strict=True)):
        assert torch.allclose(boxes[i, index], target.boxes_cxcywh.repeat(groups, 1), atol=1e-4)
        assert torch.equal(noisy.content[i, index], embed(target.labels.repeat(groups)))
    allowed = noisy.allowed
    assert allowed is not None
    assert not allowed[dn:, :dn].any()  # the ordinary queries must not see the answers
    assert allowed[:, dn:].all()
    assert torch.equal(allowed[:dn, :dn], allowed[:dn, :dn].T)
    assert (allowed[:dn, :dn].sum(1) == dn // groups).all()


def test_without_boxes_the_embedding_still_takes_part() -> None:
    embed = nn.Embedding(6, 8, padding_idx=5)
    noisy = denoising_queries(batch([0, 0]), embed, 7)
    noisy.content.sum().backward()
    assert embed.weight.grad is not None
    assert not embed.weight.grad.any()


def test_crossed_corners_are_mirrored_or_flat() -> None:
    torch.manual_seed(0)
    embed = nn.Embedding(6, 8, padding_idx=5)
    targets = batch([10])
    mirrored = denoising_queries(targets, embed, 7).box_logits.sigmoid()[..., 2:]
    assert mirrored.min() > 1e-4
    flat = denoising_queries(targets, embed, 7, mirror_crossed=False).box_logits.sigmoid()
    assert (flat[..., 2:] < 2e-5).any()


def test_dummy_pairs_stand_in_for_boxes() -> None:
    embed = nn.Embedding(6, 8, padding_idx=5)
    noisy = denoising_queries(batch([0, 0]), embed, 7, mirror_crossed=False, dummy_pairs=True)
    assert noisy.meta["dn_num_split"] == [2, 7]
    assert noisy.meta["dn_num_group"] == 1
    assert [len(p) for p in noisy.meta["dn_positive_idx"] or ()] == [0, 0]
    assert not noisy.content.any()  # the padding class
    clean = denoising_queries(batch([0]), embed, 7, box_noise_scale=0, dummy_pairs=True)
    assert torch.allclose(clean.box_logits.sigmoid(), torch.tensor([0.5, 0.5, 0.1, 0.1]))
    with_boxes = denoising_queries(batch([0, 2]), embed, 7, dummy_pairs=True)
    assert with_boxes.meta["dn_num_split"] == [200, 7]  # nothing to stand in for


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    number=st.integers(1, 30),
    limit=st.floats(0.01, 1.0),
)
def test_random_negatives_lie_away_from_the_objects(
    counts: list[int], number: int, limit: float
) -> None:
    targets = batch(counts)
    boxes, counted = draw_negatives(targets, number, limit, torch.device("cpu"))
    assert boxes.shape == (len(counts), number, 4)
    corners = cxcywh_to_xyxy(boxes)
    assert corners.min() >= -1e-6
    assert corners.max() <= 1 + 1e-6
    assert boxes[..., 2:].min() > 0.019
    for image, target in enumerate(targets):
        overlap, _ = box_iou(corners[image], cxcywh_to_xyxy(target.boxes_cxcywh))
        largest = overlap.amax(1) if len(target) else torch.zeros(number)
        assert torch.equal(largest < limit, counted[image])
        if not len(target):
            assert counted[image].all()


def test_where_objects_leave_no_room_negatives_do_not_count() -> None:
    grid = torch.cartesian_prod(torch.arange(20), torch.arange(20)) / 20 + 0.025
    sizes = torch.tensor([0.025, 0.05, 0.1, 0.2, 0.4, 0.8])
    boxes = torch.cat([torch.cat([grid, s.expand(400, 2)], 1) for s in sizes])
    _, counted = draw_negatives(
        [Target(boxes, torch.zeros(len(boxes)))], 50, 0.05, torch.device("cpu")
    )
    assert not counted.all()


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=3), number=st.integers(1, 6))
def test_random_negatives_change_nothing_else(counts: list[int], number: int) -> None:
    targets, embed = batch(counts), nn.Embedding(6, 8, padding_idx=5)
    torch.manual_seed(1)
    plain = denoising_queries(targets, embed, 7, 10)
    torch.manual_seed(1)
    more = denoising_queries(targets, embed, 7, 10, random_negatives=number)
    before, _ = plain.meta["dn_num_split"]
    assert more.meta["dn_num_split"] == [before + number, 7]
    assert torch.equal(more.content[:, :before], plain.content)
    assert torch.equal(more.box_logits[:, :before], plain.box_logits)
    assert more.meta["dn_num_group"] == plain.meta["dn_num_group"]
    assert "dn_random" not in plain.meta
    allowed, total = more.allowed, before + number
    assert allowed is not None
    if plain.allowed is not None:
        kept = [*range(before), *range(total, total + 7)]
        assert torch.equal(allowed[kept][:, kept], plain.allowed)
    assert not allowed[total:, :total].any()  # ordinary queries see no denoising query
    assert allowed[before:total, before:].all()  # a group of its own
    assert not allowed[before:total, :before].any()
    assert not allowed[:before, before:total].any()
    assert more.content[:, before:].abs().sum() > 0  # real classes, not the padding
