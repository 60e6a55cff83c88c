"""The evaluator: coordinates all the way round, and a model left as it was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from detrkit.data.dataset import DetectionDataset
from detrkit.data.detect import open_dataset
from detrkit.data.index import DatasetIndex
from detrkit.data.loader import build_loader
from detrkit.data.transforms import Compose
from detrkit.engine.evaluator import Evaluator, evaluate_runtime
from detrkit.errors import DataError
from detrkit.metrics.coco import count
from detrkit.metrics.results_file import read_results, write_results
from detrkit.models.postprocess import PostProcessor
from tests.engine.bright import CLASSES, SPEC, BrightBox, bright_runtime, picture

BOXES = [(48, 32, 120, 96), (10, 20, 60, 90), (0, 0, 40, 40), (100, 50, 190, 120)]


def write_coco(folder: Path, ids: list[Any], broken: int | None = None) -> DatasetIndex:
    """Four pictures of different sizes; picture i holds one object of class i % 3."""
    names = [f"{i}.png" for i in range(len(ids))]
    sizes = [(128 + 8 * i, 192 + 16 * i) for i in range(len(ids))]
    for i, name in enumerate(names):
        picture(sizes[i], BOXES[i], i % 3).save(folder / name)
    if broken is not None:
        (folder / names[broken]).write_bytes(b"no image")
    truth = {
        "images": [
            {"id": ids[i], "file_name": n, "height": sizes[i][0], "width": sizes[i][1]}
            for i, n in enumerate(names)
        ],
        "categories": [
            {"id": c, "name": n}
            for n, c in zip(CLASSES.names, CLASSES.category_ids, strict=True)
        ],
        "annotations": [
            {
                "id": i, "image_id": ids[i], "category_id": CLASSES.category_ids[i % 3],
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0,
            }
            for i, (x1, y1, x2, y2) in enumerate(BOXES[: len(ids)])
        ],
    }  # fmt: skip
    file = folder / "instances_val.json"
    file.write_text(json.dumps(truth), encoding="utf-8")
    return open_dataset(file, "val", class_map=CLASSES)


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    return write_coco(tmp_path, [7, 3, 12, 5])


def evaluator_of(index: DatasetIndex, **options: Any) -> Evaluator:
    transforms = Compose(
        [{"type": "Resize", "size": list(SPEC.size)}, {"type": "ConvertPILImage", "scale": True}]
    )
    dataset = DetectionDataset(index, transforms, training=False)
    loader = build_loader(dataset, batch_size=3, shuffle=False)
    return Evaluator(
        loader, index, SPEC, PostProcessor(num_classes=3), class_map=CLASSES, **options
    )


def test_a_perfect_detector_gets_one(index: DatasetIndex) -> None:
    """Reading, resizing to another aspect ratio, boxes back to pixels, ids: all of it fits."""
    metrics = evaluator_of(index).run(BrightBox())
    assert metrics["AP50"] == pytest.approx(1.0)
    assert metrics["AP"] > 0.85  # the resized edge of a rectangle is up to a pixel soft
    assert (metrics.images, metrics.boxes) == (4, 4)


def test_detections_carry_the_data_sets_ids(index: DatasetIndex, tmp_path: Path) -> None:
    evaluator = evaluator_of(index, keep=True)
    metrics = evaluator.run(BrightBox())
    assert [d.image_id for d in evaluator.detections] == [7, 3, 12, 5]
    best = evaluator.detections[0].select(np.array([0]))
    np.testing.assert_allclose(best.boxes_xyxy[0], BOXES[0], atol=2)
    assert evaluator.truth is not None
    assert evaluator.predictions is not None
    ids = evaluator.truth.image_ids, CLASSES.category_ids
    write_results(tmp_path / "p.json", evaluator.predictions, *ids)
    rows = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert len(rows) == 4 * 9
    mine = [row for row in rows if row["image_id"] == 7]
    x, y, w, h = max(mine, key=lambda row: row["score"])["bbox"]
    np.testing.assert_allclose((x, y, x + w, y + h), BOXES[0], atol=2)
    assert {row["category_id"] for row in rows} == set(CLASSES.category_ids)
    read = read_results(tmp_path / "p.json", evaluator.truth).predictions
    assert count(evaluator.truth, read).values == metrics.values


def test_yolo_metrics_join_the_numbers(index: DatasetIndex) -> None:
    plain = evaluator_of(index)
    numbers = plain.run(BrightBox()).values
    assert plain.table is None
    evaluator = evaluator_of(index, yolo_metrics=True)
    values = evaluator.run(BrightBox()).values
    assert values.items() > numbers.items()
    assert evaluator.table is not None
    assert evaluator.table.values.items() <= values.items()
    assert values["precision"] == values["recall"] == values["F1"] == 1


def test_both_loaders_and_runtimes_agree(index: DatasetIndex) -> None:
    """The trainer's validation and `detrkit eval` see the same pixels."""
    evaluator = evaluator_of(index, keep=True)
    numbers = evaluator.run(BrightBox()).values
    evaluation = evaluate_runtime(bright_runtime(), index, batch=2)
    assert evaluation.metrics.values == pytest.approx(numbers, abs=1e-6)
    for a, b in zip(evaluator.detections, evaluation.detections, strict=True):
        np.testing.assert_allclose(a.boxes_xyxy, b.boxes_xyxy, atol=1e-3)


def test_the_model_is_left_as_it_was(index: DatasetIndex) -> None:
    model = BrightBox().train()
    model.dropout.eval()  # a frozen part stays frozen
    before = torch.get_rng_state()
    evaluator_of(index).run(model)
    assert model.training
    assert not model.dropout.training
    assert torch.equal(torch.get_rng_state(), before)


def test_the_mode_is_restored_after_an_error(index: DatasetIndex) -> None:
    class Failing(nn.Module):
        def forward(self, images: Any) -> Any:
            assert not self.training
            raise RuntimeError("no")

    model = Failing().train()
    with pytest.raises(RuntimeError, match="no"):
        evaluator_of(index).run(model)
    assert model.training


def test_twice_gives_the_same(index: DatasetIndex) -> None:
    evaluator = evaluator_of(index)
    assert evaluator.run(BrightBox()).to_dict() == evaluator.run(BrightBox()).to_dict()


def test_progress_is_told(index: DatasetIndex) -> None:
    told: list[tuple[int, int]] = []
    evaluator_of(index).run(BrightBox(), lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_unreadable_images_count_as_missed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = write_coco(tmp_path, ["a", "b", "c", "d"], broken=1)
    evaluation = evaluate_runtime(bright_runtime(), index, batch=2)
    assert [Path(p).name for p in evaluation.broken] == ["1.png"]
    assert evaluation.metrics.classes[1].ap == 0
    assert evaluation.metrics.classes[2].ap > 0.8
    assert "1.png" in caplog.text
    assert [d.image_id for d in evaluation.detections] == ["a", "c", "d"]


def test_diverged_models_get_zero(index: DatasetIndex, caplog: pytest.LogCaptureFixture) -> None:
    class Diverged(BrightBox):
        def forward(self, images: Any, targets: Any = None) -> Any:
            out = super().forward(images)
            return {name: value * math.nan for name, value in out.items()}

    assert evaluator_of(index).run(Diverged()).ap == 0
    assert "NaN" in caplog.text


def test_other_classes_are_refused(index: DatasetIndex) -> None:
    from detrkit.structures import ClassMap

    runtime = bright_runtime(classes=ClassMap.from_names(["a", "b", "c"]))
    with pytest.raises(DataError, match="are not the data set's"):
        evaluate_runtime(runtime, index)
