"""The real D-FINE on tiny pictures: one batch can be learned, and the parts agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detrkit.engine.derive import TrainFlags, load_with_flags
from detrkit.engine.parts import build_model
from detrkit.engine.plan import Plan
from detrkit.engine.run_dir import RunDirectory
from detrkit.engine.session import Session, build_trainer, open_session, start_model
from detrkit.errors import ConfigError, DataError
from detrkit.ops.boxes import box_iou, cxcywh_to_xyxy
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_coco, write_config
from tests.engine.toy import equal

PLAIN = (
    "train_dataloader.dataset.transforms.ops="
    "[{type: Resize, size: [64, 64]}, {type: ConvertPILImage}, {type: ConvertBoxes}]"
)
#: D-FINE-N's own backbone, instead of a smaller one.
N = (
    *("HGNetv2.name=B0", "HGNetv2.return_idx=[2,3]", "HybridEncoder.in_channels=[512,1024]"),
    *("HybridEncoder.feat_strides=[16,32]", "DFINETransformer.feat_strides=[16,32]"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    write_coco(folder / "data", train=4, val=2)
    write_config(folder, REPOSITORY)
    return folder


def session(place: Path, *update: str, **flags: object) -> Session:
    values = TrainFlags(**{"data": str(place / "data"), **flags})  # type: ignore[arg-type]
    return open_session(load_with_flags(place / "tiny.yml", values, update=update))


def test_one_batch_can_be_learned(place: Path, tmp_path: Path) -> None:
    """Forward, matching, losses, gradients, clipping and optimizer, all together."""
    opened = session(
        place, PLAIN, *N, "train_dataloader.dataset.transforms.policy=null", batch=4, lr=1e-3
    )
    model, _ = start_model(opened)
    trainer = build_trainer(opened, model, RunDirectory(tmp_path))
    trainer.ema = None
    model.train()
    opened.train.set_epoch(0)
    (batch,) = opened.train
    history = []
    for step in range(32):
        trainer.state.step = step
        losses, norm = trainer.train_step(batch)
        assert torch.isfinite(norm)
        history.append({name: float(value) for name, value in losses.items()})
    assert history[-1]["loss_bbox"] < 0.4 * history[0]["loss_bbox"]
    assert history[-1]["loss_giou"] < 0.6 * history[0]["loss_giou"]
    # still in training mode: running statistics need more than 32 batches
    with torch.no_grad():
        outputs = model(batch.images, batch.targets)
    overlaps = []
    for target, boxes in zip(batch.targets, outputs["pred_boxes"], strict=True):
        iou, _ = box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target.boxes_cxcywh))
        overlaps += iou.max(0).values.tolist()
    assert sum(overlaps) / len(overlaps) > 0.5


def test_same_seed_same_weights_and_other_seed_others(place: Path) -> None:
    cfg = session(place).config
    first, second = (build_model(cfg, seed=4).state_dict() for _ in range(2))
    assert equal(first, second)
    assert not equal(first, build_model(cfg, seed=5).state_dict())


def test_the_session_fills_in_what_the_data_says(place: Path) -> None:
    opened = session(place)
    assert opened.config.run.num_classes == 2
    assert opened.class_map.names == ("red", "green")
    assert opened.config.run.data == str((place / "data").resolve())
    assert opened.image_spec.size == (64, 64)
    assert opened.seed == 7
    assert opened.plan == Plan.from_tree(opened.config.tree, len(opened.train))
    assert session(place, "seed=null").seed != session(place, "seed=null").seed


def test_the_data_follows_the_derived_stage(place: Path) -> None:
    opened = session(place, epochs=10)
    assert opened.plan.stages[1].first == 9
    transforms = opened.train.dataset.transforms
    assert len(transforms.active(8)) == len(transforms.active(9)) + 3  # type: ignore[union-attr]


def test_data_of_the_loaders_sections(place: Path) -> None:
    """The authors' way: `img_folder` and `ann_file` instead of `data`."""
    folder = place / "data"
    update = ["data=null"]
    for split in ("train", "val"):
        update += [
            f"{split}_dataloader.dataset.img_folder={folder / 'images'}",
            f"{split}_dataloader.dataset.ann_file={folder / f'annotations/instances_{split}.json'}",
        ]
    opened = session(place, *update, data=None)
    assert (len(opened.train.dataset), len(opened.val.dataset)) == (4, 2)  # type: ignore[union-attr]
    assert opened.train.dataset.training
    assert not opened.val.dataset.training  # type: ignore[union-attr]


def test_no_data_named(place: Path) -> None:
    with pytest.raises(ConfigError, match="needs `img_folder`, `ann_file`"):
        session(place, "data=null", data=None)


def test_different_classes_in_train_and_val(place: Path, tmp_path: Path) -> None:
    text = (place / "data" / "annotations" / "instances_val.json").read_text()
    other = tmp_path / "val.json"
    other.write_text(text.replace('"red"', '"blue"'))
    folder = place / "data"
    with pytest.raises(DataError, match="different classes: red, green and blue, green"):
        session(
            place,
            "data=null",
            f"train_dataloader.dataset.img_folder={folder / 'images'}",
            f"train_dataloader.dataset.ann_file={folder / 'annotations/instances_train.json'}",
            f"val_dataloader.dataset.img_folder={folder / 'images'}",
            f"val_dataloader.dataset.ann_file={other}",
            data=None,
        )
