"""Each rule speaks when it should, with true numbers, and is silent otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given

from detrkit.analysis import Advice, Findings, Severity, TrainingSetup, advise, find
from detrkit.analysis.advice import RULES
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.index import DatasetIndex
from detrkit.structures import ImageSpec
from tests.analysis.made import IMAGES, Box, Image, index_of, many

MIDDLE = Box((200, 200, 260, 250))
DOG, COW = Box((300, 200, 360, 260), 1), Box((100, 300, 160, 360), 2)
GOOD = [MIDDLE, DOG, COW]


def named(images: list[Image], split: str, **options: object) -> DatasetIndex:
    """Boxes are moved a little from image to image: a box in one place is suspicious."""
    moved = []
    for i, image in enumerate(images):
        shift = (i * 7 % 90) / 10
        boxes = [b._replace(corners=tuple(v + shift for v in b.corners)) for b in image.boxes]
        moved.append(image._replace(boxes=boxes))
    paths = [f"{split}/{i}.jpg" for i in range(len(images))]
    return index_of(moved, paths=paths, **options)  # type: ignore[arg-type]


def findings_of(
    train: list[Image],
    val: list[Image] | None = None,
    setup: TrainingSetup | None = None,
    **o: object,
) -> Findings:
    parts = {"train": named(train, "train", **o)}
    if val is not None:
        parts["val"] = named(val, "val", **o)
    return find("my data", parts, setup)


def codes(findings: Findings) -> dict[str, Advice]:
    return {advice.code: advice for advice in advise(findings)}


def test_a_good_data_set_needs_no_advice() -> None:
    assert set(codes(findings_of(many(2400, GOOD), many(1500, GOOD)))) == set()


def test_no_boxes() -> None:
    found = codes(findings_of(many(3000, [MIDDLE._replace(crowd=True)])))
    assert found["no-boxes"].severity is Severity.WARNING
    assert "3000 crowd regions" in found["no-boxes"].text


def test_annotations_left_out() -> None:
    faults = FaultReport()
    for i in range(30):
        faults.add(FaultKind.UNKNOWN_CLASS, "a.txt", f"line {i}")
    faults.add(FaultKind.CORRUPT_IMAGE, "b.jpg")
    found = codes(findings_of(many(90, [MIDDLE]), faults=faults))
    assert "30 annotations (25 %)" in found["annotations-left-out"].text
    assert "detrkit dataset-analyze 'my data' --json" in found["annotations-left-out"].change
    assert "1 image cannot" in found["images-left-out"].text


def test_leak(tmp_path: Path) -> None:
    folder = str(tmp_path)
    for i in range(10):
        (tmp_path / f"{i}.jpg").touch()
    parts = {"train": named(many(10, GOOD), folder), "val": named(many(10, GOOD), "b")}
    parts["val"] = replace(parts["val"], paths=parts["train"].paths)
    found = codes(find("x", parts))
    assert "10 images of `val` (100 %) are in `train`" in found["leak"].text


@pytest.mark.parametrize(
    ("side", "setup", "expected"),
    [
        (60, TrainingSetup(), None),
        (7, TrainingSetup(), "--size 800"),
        (4, TrainingSetup(), "--size 1280"),
        (14, TrainingSetup(strides=(16, 32)), "--size 800"),
        (14, TrainingSetup(), None),
        (7, TrainingSetup(ImageSpec((480, 640))), "--size 704x928"),
    ],
)
def test_input_size(side: float, setup: TrainingSetup, expected: str | None) -> None:
    image = Image((640, 640), [Box((100, 100, 100 + side, 100 + side))])
    found = codes(findings_of(many(50, image.boxes, image.size), setup=setup)).get("input-size")
    assert (found and found.change) == expected
    if found is not None:
        assert "100 % of the objects" in found.text
        assert found.severity is Severity.WARNING


def test_smaller_input() -> None:
    image = many(50, [Box((100, 100, 400, 400))], (640, 640))
    assert codes(findings_of(image))["smaller-input"].change == "--size 320"


def test_oblong_pictures() -> None:
    found = codes(findings_of(many(50, GOOD, (1080, 1920))))["input-shape"]
    assert found.change == "--size 480x864"
    assert "44 % of their width" in found.text
    letterbox = TrainingSetup(ImageSpec((640, 640), resize="letterbox"))
    assert "input-shape" not in codes(findings_of(many(50, GOOD, (1080, 1920)), setup=letterbox))
    mixed = codes(findings_of([*many(30, GOOD, (400, 2000)), *many(30, GOOD)]))
    assert "50 % of the pictures" in mixed["mixed-shapes"].text


def test_queries() -> None:
    row = [
        Box((9 * (i % 60), 9 * (i // 60), 9 * (i % 60) + 8, 9 * (i // 60) + 8)) for i in range(320)
    ]
    setup = TrainingSetup(queries_key="DFINETransformer.num_queries")
    found = codes(findings_of([*many(20, GOOD), Image((480, 640), row)], setup=setup))
    assert "1 image holds more than 300 objects, at most 320" in found["queries"].text
    assert found["queries"].change == "-u DFINETransformer.num_queries=400 num_top_queries=400"
    assert "1 image of `train` holds more than 100" in found["max-detections"].text
    some = codes(findings_of(many(20, row[:200])))["queries"]
    assert some.severity is Severity.HINT
    assert "=400 num_top_queries=400 (or the decoder" in some.change
    few = TrainingSetup(num_queries=500, num_top_queries=100)
    assert (
        "more than 100 objects"
        in codes(findings_of(many(20, row[:200]), setup=few))["queries"].text
    )


def test_classes_of_splits() -> None:
    found = codes(findings_of(many(50, [MIDDLE]), many(50, [MIDDLE, DOG])))
    assert "1 class (`dog`) is in `val` but not in `train`" in found["class-missing-in-train"].text
    assert "`cow`" in found["unused-classes"].text
    found = codes(findings_of(many(50, GOOD), many(50, [MIDDLE])))
    assert "2 classes (`dog`, `cow`) are in `train`" in found["class-missing-in-val"].text
    shifted = findings_of(
        [*many(200, [MIDDLE]), *many(20, [DOG])], [*many(20, [MIDDLE]), *many(200, [DOG])]
    )
    assert (
        "`dog` (9.1 % of the images of `train`, 91 % of `val`)"
        in codes(shifted)["split-classes"].text
    )


def test_scale_of_splits() -> None:
    found = codes(findings_of(many(50, [MIDDLE]), many(50, [Box((9, 9, 209, 209))])))
    assert "3.7 times as large" in found["split-scale"].text
    found = codes(findings_of(many(50, [Box((100, 100, 140, 150))], (160, 160)),
                              many(50, [Box((300, 300, 420, 450))], (480, 480))))  # fmt: skip
    assert "3 times as large" in found["split-resolution"].text
    assert "split-scale" not in found


def test_imbalance_and_rare_classes() -> None:
    found = codes(findings_of([*many(300, [MIDDLE]), *many(10, [DOG])]))
    assert "`cat` has 30 times the boxes of `dog` (300 and 10)" in found["class-imbalance"].text
    assert (
        "1 class of 2 in fewer than 20 images of `train`: `dog` 10." in found["rare-classes"].text
    )


@pytest.mark.parametrize(
    ("names", "severity"),
    [
        (("Tree", "trees", "cow"), Severity.HINT),
        (("traffic light", "traffic_light", "cow"), Severity.HINT),
        (("cow", "cow", "cat"), Severity.WARNING),
        (("s", "as", "a"), Severity.HINT),
        (("bus", "car", "猫"), None),
        (("?", "!", " "), None),
    ],
)
def test_similar_names(names: tuple[str, ...], severity: Severity | None) -> None:
    found = codes(findings_of(many(50, GOOD), names=names)).get("similar-names")
    assert (found and found.severity) == severity


def test_backgrounds() -> None:
    faults = FaultReport()
    faults.add(FaultKind.IMAGE_WITHOUT_LABELS, "a.jpg")
    found = codes(findings_of([*many(50, GOOD), *many(70)], faults=faults))
    assert "58 % of the images" in found["backgrounds"].text
    assert "1 image without an annotation file counts as" in found["images-without-labels"].text


def test_length() -> None:
    found = codes(findings_of(many(205, GOOD), setup=TrainingSetup(epochs=50)))
    assert "12 batches of 16 per epoch, 50 epochs are 600 steps" in found["small-data"].text
    assert found["small-data"].change == "detrkit tune CFG --weights FILE --data 'my data'"
    found = codes(findings_of(many(9, GOOD)))
    assert found["batch"].change == "--batch 2"
    assert "small-data" not in found


def test_validation() -> None:
    found = codes(findings_of(many(300, GOOD), many(25, GOOD)))
    # three classes of 25 boxes: 50 / sqrt(25) points each, over sqrt(3)
    assert "by about 5.8 points" in found["validation-noise"].text
    parts = {"train": named(many(300, GOOD), "train")}
    assert "no-validation" in codes(find("x", parts))
    assert "no-validation" not in codes(find("x", parts, partial=True))


def test_mosaic() -> None:
    large = many(50, [Box((0, 0, 500, 400))])
    assert "mosaic-large-objects" in codes(findings_of(large))
    assert "mosaic-large-objects" not in codes(
        findings_of(large, setup=TrainingSetup(mosaic=False))
    )


def test_label_errors() -> None:
    found = codes(findings_of(many(50, [MIDDLE, MIDDLE, DOG, COW._replace(corners=DOG.corners)])))
    assert (
        "50 boxes (25 %) lie on an earlier box of the same class" in found["duplicate-boxes"].text
    )
    assert "of another class" in found["label-conflicts"].text


def test_large_files() -> None:
    assert (
        "24 megapixels, 59 times"
        in codes(findings_of(many(9, GOOD, (4000, 6000))))["large-files"].text
    )


@given(IMAGES, IMAGES)
def test_any_data_set_gets_plain_sentences(train: list[Image], val: list[Image]) -> None:
    findings = findings_of(train, val)
    for rule in RULES:
        for advice in rule(findings):
            assert advice.text.endswith((".", "?"))
            assert "nan" not in advice.text.lower()
            assert "inf" not in advice.text
    severities = [list(Severity).index(advice.severity) for advice in advise(findings)]
    assert severities == sorted(severities)
    json.dumps(findings.to_dict(), default=lambda value: value.tolist())
