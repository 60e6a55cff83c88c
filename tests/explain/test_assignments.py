"""Matches over a training: those of the criterion, and what is counted of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.config import Config
from detrkit.data.index import DatasetIndex
from detrkit.engine.parts import build_criterion
from detrkit.engine.weights import open_detector
from detrkit.errors import DataError, UsageError
from detrkit.explain import assignments
from detrkit.explain.assignments import Assignments, Moment, instability, moments_of
from detrkit.explain.decoder_trace import DecoderTrace, judged_outputs
from detrkit.explain.images import batches_of
from detrkit.explain.matching import NONE, Matches, Truth, judged_by_name, match_images
from detrkit.losses.criterion import SetCriterion
from detrkit.models.decoders.rtdetr import RTDETRTransformer
from detrkit.ops.boxes import cxcywh_to_xyxy, paired_iou
from detrkit.structures import ImageSpec
from tests.engine.bright import CLASSES
from tests.engine.test_evaluator import write_coco
from tests.explain.likeness import assert_like
from tests.export.families import FAMILIES, family


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    return write_coco(tmp_path, [7, 3, 12, 5])


def crowded(index: DatasetIndex) -> DatasetIndex:
    """The same images with one, three, no and two boxes."""
    boxes = [[(8, 8, 40, 40)], [(5, 5, 50, 60), (60, 20, 120, 90), (3, 70, 40, 120)], [],
             [(20, 20, 90, 90), (100, 10, 170, 60)]]  # fmt: skip
    corners = np.array([box for image in boxes for box in image], np.float32)
    return replace(
        index,
        offsets=np.cumsum([0, *map(len, boxes)]),
        boxes_xyxy=corners,
        labels=np.arange(len(corners)) % 3,
        iscrowd=np.zeros(len(corners), bool),
        area=np.ones(len(corners)),
        annotation_ids=np.arange(len(corners)),
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_pairs_are_the_criterions(name: str, index: DatasetIndex) -> None:
    index = crowded(index)
    detector = family(name).detector
    spec = family(name).checkpoint.image_spec
    assert spec is not None
    criterion = build_criterion(_config(name))
    assert isinstance(criterion, SetCriterion)
    matches, truth = match_images(detector, criterion, index, spec, batch=8)
    assert truth.offsets.tolist() == [0, 1, 4, 4, 6]
    assert truth.images.tolist() == [0, 1, 1, 1, 3, 3]

    (shown,) = batches_of(index, spec, 8)
    targets = [image.target for image in shown]
    with torch.no_grad(), judged_outputs(detector):
        outputs = detector(torch.stack([image.input for image in shown]))
    own = criterion.match(outputs, targets).own
    suffixes = [*(f"_enc_{i}" for i in range(len(outputs["enc_aux_outputs"])))]
    suffixes += ["_pre"] if "pre_outputs" in outputs else []
    suffixes += [f"_aux_{i}" for i in range(len(outputs["aux_outputs"]))]
    assert matches.outputs[-1] == f"layer {len(outputs['aux_outputs']) + 1}"
    assert matches.outputs[0] == "encoder"
    for row, suffix in enumerate([*suffixes, ""]):
        wanted = [
            (image, box, query)
            for image, pairs in enumerate(own[suffix].per_image(10, [1, 3, 0, 2]))
            for query, box in pairs
        ]
        found = [
            (image, box, int(matches.queries[row, truth.offsets[image] + box]))
            for image, box, _ in wanted
        ]
        assert found == wanted
    queries = torch.from_numpy(matches.queries[-1] + 10 * truth.images)
    predicted = outputs["pred_boxes"].flatten(0, 1)[queries]
    np.testing.assert_allclose(matches.boxes, predicted, atol=1e-6)
    overlap = paired_iou(
        cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(torch.cat([t.boxes_cxcywh for t in targets]))
    )
    np.testing.assert_allclose(matches.iou[-1], overlap, atol=1e-6)
    labels = torch.cat([t.labels for t in targets])
    scores = outputs["pred_logits"].flatten(0, 1)[queries, labels].sigmoid()
    np.testing.assert_allclose(matches.scores[-1], scores, atol=1e-6)


def test_the_first_rt_detr_lists_the_encoder_last() -> None:
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.decoder = decoder = RTDETRTransformer(
        num_classes=3, hidden_dim=32, num_queries=6, feat_channels=[32, 32], feat_strides=[16, 32],
        num_levels=2, num_layers=2, nhead=4, dim_feedforward=64,
    ).eval()  # fmt: skip
    maps = [torch.rand(1, 32, 8, 8), torch.rand(1, 32, 4, 4)]
    with torch.no_grad(), judged_outputs(model), DecoderTrace(model) as trace:
        outputs = decoder(maps)
    named = judged_by_name(outputs, decoder)
    assert [name for name, _, _ in named] == ["encoder", "layer 1", "layer 2"]
    torch.testing.assert_close(named[0][2]["pred_boxes"], trace.last.start)
    assert named[2][2]["pred_boxes"] is outputs["pred_boxes"]


def _config(name: str) -> Config:
    checkpoint = family(name).checkpoint
    assert checkpoint.config is not None
    return Config.from_tree(checkpoint.config, name=name)


def test_batches_do_not_matter(index: DatasetIndex) -> None:
    detector, spec = family("dfine").detector, family("dfine").checkpoint.image_spec
    assert spec is not None
    criterion = build_criterion(_config("dfine"))
    whole, truth = match_images(detector, criterion, crowded(index), spec, batch=8)
    parts, again = match_images(detector, criterion, crowded(index), spec, batch=1)
    np.testing.assert_array_equal(whole.queries, parts.queries)
    np.testing.assert_array_equal(whole.places, parts.places)
    np.testing.assert_array_equal(truth.boxes, again.boxes)
    np.testing.assert_allclose(whole.boxes, parts.boxes, atol=1e-5)


def test_a_foreign_criterion_says_so(index: DatasetIndex) -> None:
    spec = family("dfine").checkpoint.image_spec
    assert spec is not None
    with pytest.raises(UsageError, match="cannot be asked for its matches"):
        match_images(family("dfine").detector, torch.nn.Identity(), index, spec)


def test_instability_by_hand() -> None:
    offsets = np.array([0, 2, 3])
    before, after = np.array([4, 7, 1]), np.array([4, 2, 1])
    assert instability(before, after, offsets) == 1  # queries 7 and 2, over two images
    swapped = np.array([7, 4, 1])
    assert instability(before, swapped, offsets) == 1  # both have another box now
    assert instability(before, np.array([4, NONE, 1]), offsets) == 0.5
    assert instability(before, before, offsets) == 0


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 10_000))
@settings(max_examples=50)
def test_laws_of_instability(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    offsets = np.cumsum([0, *sizes])
    before, after = (
        np.concatenate([rng.permutation(8)[:size] for size in sizes]) for _ in range(2)
    )
    found = instability(before, after, offsets)
    assert found == instability(after, before, offsets)
    assert 0 <= found <= 2 * sum(sizes) / len(sizes)
    assert (found == 0) == bool((before == after).all())
    names = rng.permutation(8)  # what queries are called does not matter
    assert instability(names[before], names[after], offsets) == found


def write_run(folder: Path, name: str, epochs: int = 3) -> Path:
    """A run whose weights drift: every epoch's checkpoint, and the last one with its state."""
    folder.mkdir()
    checkpoint = family(name).checkpoint
    assert checkpoint.model is not None
    generator = torch.Generator().manual_seed(0)
    weights = {key: value.clone() for key, value in checkpoint.model.items()}
    for epoch in range(epochs):
        for key, value in weights.items():
            if value.is_floating_point() and "encoder" in key:
                value += (
                    0.05 * value.std(correction=0) * torch.randn(value.shape, generator=generator)
                )
        averaged = {"module": {k: v.clone() for k, v in weights.items()}, "updates": epoch}
        raw = {k: v.clone() for k, v in weights.items()}
        full = replace(
            checkpoint, model=raw, ema=averaged, optimizer={"state": {}}, last_epoch=epoch
        )
        if epoch < epochs - 1:
            full.save(folder / f"epoch_{epoch + 1:04d}.pth")
        if epoch == 0:
            full.stripped().save(folder / "best.pth")
    full.save(folder / "last.pth")
    return folder


def test_checkpoints_of_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "deimv2_hgnet")
    shutil.copy(run / "last.pth", run / "epoch_start.pth")  # the keeper's, no epoch's
    found = moments_of([run])
    assert [(m.epochs, m.path.name) for m in found] == [
        (1, "epoch_0001.pth"), (2, "epoch_0002.pth"), (3, "last.pth"),
    ]  # fmt: skip
    (run / "epoch_0001.pth").unlink()
    assert next(m.path.name for m in moments_of([run])) == "best.pth"
    assert [m.epochs for m in moments_of([run], averaged=False)] == [2, 3]
    files = [run / "last.pth", run / "epoch_0002.pth"]
    assert [m.epochs for m in moments_of(files)] == [2, 3]
    files = [run / "last.pth", run / "epoch_start.pth"]
    assert [m.path for m in moments_of(files)] == files


def test_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoints"):
        moments_of([tmp_path])
    with pytest.raises(UsageError, match="one run"):
        moments_of([tmp_path, tmp_path])
    best = write_run(tmp_path / "run", "deimv2_hgnet", 1) / "best.pth"
    with pytest.raises(UsageError, match="weights of the training"):
        moments_of([best], averaged=False)


@pytest.mark.parametrize("name", ["rtdetrv2", "dfine", "deimv2_hgnet"])
def test_a_run(name: str, index: DatasetIndex, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", name)
    steps: list[tuple[int, int]] = []
    found = assignments([run], crowded(index), device="cpu", progress=lambda *a: steps.append(a))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert found.epochs == [1, 2, 3]
    assert len(found.truth.paths) == 3  # one has no boxes
    outputs = len(found.outputs)
    assert found.instability("place").shape == found.changed().shape == (2, outputs)
    assert found.agreement.shape == found.iou.shape == (3, outputs)
    assert (found.agreement[:, -1] == 1).all()
    rows = found.rows()
    assert len(rows) == 3 * outputs
    assert rows[0]["changed"] is None
    assert rows[-1]["instability"] == found.instability("query")[-1, -1]
    assert found.arrays()["queries"].shape == (3, outputs, 6)
    one = open_detector(run / "last.pth")
    alone, _ = match_images(
        one.model, build_criterion(one.config), crowded(index), one.image_spec, epoch=2
    )
    np.testing.assert_array_equal(found.matches[-1].queries, alone.queries)


def test_the_same_weights_change_nothing(index: DatasetIndex, tmp_path: Path) -> None:
    checkpoint = family("dfine").checkpoint
    files = []
    for epoch in range(2):
        files.append(tmp_path / f"{epoch}.pth")
        replace(checkpoint, last_epoch=epoch).save(files[-1])
    found = assignments(files, crowded(index), device="cpu")
    for by in ("query", "place"):
        assert not found.instability(by).any()  # type: ignore[arg-type]
        assert not found.changed(by).any()  # type: ignore[arg-type]
    assert found.restless(2)[:1] != []


def test_images_that_cannot_be_read(index: DatasetIndex, tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    family("dfine").checkpoint.save(file)
    Path(index.paths[1]).write_bytes(b"no image")
    found = assignments([file], index, device="cpu")
    assert found.truth.paths == (index.paths[0], index.paths[2], index.paths[3])
    for path in index.paths:
        Path(path).write_bytes(b"no image")
    with pytest.raises(DataError, match="none of its 4 images"):
        assignments([file], index, device="cpu")


def test_nothing_to_match(index: DatasetIndex, tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    family("dfine").checkpoint.save(file)
    with pytest.raises(DataError, match="nothing to match"):
        assignments([file], replace(index, iscrowd=np.ones(index.num_boxes, bool)))


def test_checkpoints_that_do_not_belong_together(index: DatasetIndex, tmp_path: Path) -> None:
    files = []
    for epoch, name in enumerate(("dfine", "rtdetrv2")):
        files.append(tmp_path / f"{name}.pth")
        replace(family(name).checkpoint, last_epoch=epoch).save(files[-1])
    with pytest.raises(UsageError, match="other decoder layers"):
        assignments(files, index, device="cpu")


def made(tmp_path: Path, moments: int = 5) -> Assignments:
    """Matches that settle: the later, the fewer boxes change hands."""
    rng = np.random.default_rng(5)
    folder = tmp_path / "photos"
    folder.mkdir(exist_ok=True)
    index = write_coco(folder, [7])
    true = np.array([[0.3, 0.4, 0.3, 0.4], [0.7, 0.6, 0.2, 0.3], [0.5, 0.8, 0.3, 0.2]], np.float32)
    outputs = ("encoder", "before refinement", "layer 1", "layer 2")
    places = np.tile(np.array([11, 25, 38]), (len(outputs), 1))
    matches = []
    for moment in range(moments):
        restless = rng.random(places.shape) < 0.8 / (moment + 1)
        places = np.where(restless, rng.integers(0, 100, places.shape), places)
        shift = rng.normal(0, 0.1 / (moment + 1), true.shape).astype(np.float32)
        matches.append(
            Matches(
                outputs,
                rng.permuted(places % 20, axis=1),
                places,
                np.full(places.shape, 1 - 0.5 / (moment + 1), np.float32),
                np.full(places.shape, 0.9 - 0.6 / (moment + 1), np.float32),
                true + shift,
                true + shift / 3,
            )
        )
    truth = Truth(index, np.array([[128, 192]]), np.array([0, 3]), true, np.array([0, 1, 2]))
    moments_ = tuple(Moment(5 * (i + 1), Path(f"epoch_{i}.pth")) for i in range(moments))
    return Assignments(moments_, tuple(matches), truth, CLASSES, ImageSpec((64, 96)))


@pytest.mark.parametrize("width", ["page", "column"])
def test_figure(width: str, tmp_path: Path) -> None:
    assert_like(made(tmp_path).figure(width), f"assignments_{width}", tmp_path)


def test_pairs(tmp_path: Path) -> None:
    assert_like(made(tmp_path).image_figure(0), "pairs", tmp_path)


def test_figures_of_one_moment_and_of_a_box_without_a_query(tmp_path: Path) -> None:
    found = made(tmp_path, 1)
    found.figure()
    (only,) = found.matches
    only.boxes[1] = only.start[1] = np.nan
    only.queries[:, 1] = only.places[:, 1] = NONE
    found.image_figure(0, "column")
