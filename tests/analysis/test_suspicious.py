"""Each kind of suspicious box is found, and ordinary ones are not."""

from __future__ import annotations

import pytest
from hypothesis import given

from detrkit.analysis import TrainingSetup, find_suspicious
from detrkit.analysis.suspicious import LISTED, MIN_REPEATS, Reason, Suspicions, from_faults
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.structures import ImageSpec
from tests.analysis.made import IMAGES, Box, Image, index_of, many

ORDINARY = Box((100, 100, 180, 160))


def only(image: Image, *more: Image, **options: object) -> dict[str, int]:
    found = find_suspicious(index_of([image, *more], **options))  # type: ignore[arg-type]
    return {reason.code: count for reason, count in found.counts.items()}


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([ORDINARY, Box((300, 100, 380, 160))], {}),
        ([ORDINARY, ORDINARY], {"duplicate": 1}),
        ([ORDINARY, ORDINARY, ORDINARY], {"duplicate": 2}),
        ([ORDINARY, Box((101, 100, 181, 160))], {"duplicate": 1}),
        ([ORDINARY, Box((105, 100, 185, 160))], {"overlap": 1}),
        ([ORDINARY, Box((100, 100, 180, 160), 1)], {"conflict": 1}),
        ([ORDINARY, Box((100, 100, 180, 160), 0, crowd=True)], {}),
        ([Box((0, 0, 640, 480))], {"giant": 1}),
        ([Box((0, 0, 640, 440))], {}),
        ([Box((10, 10, 12, 12))], {"tiny": 1}),
        ([Box((10, 10, 600, 14)), ORDINARY, ORDINARY._replace(corners=(1, 1, 90, 90))],
         {"aspect": 1}),
        ([Box((10, 10, 110, 60), area=5300)], {"area": 1}),
        ([Box((10, 10, 110, 60), area=4000)], {}),
    ],
)  # fmt: skip
def test_reasons(boxes: list[Box], expected: dict[str, int]) -> None:
    assert only(Image((480, 640), boxes)) == expected


def test_long_boxes_of_a_long_class_are_ordinary() -> None:
    poles = [Box((x, 0, x + 20, 400), 1) for x in range(0, 600, 40)]
    assert only(Image((480, 640), [*poles, Box((5, 3, 20, 470), 1)])) == {}


def test_the_same_place_in_several_images() -> None:
    found = find_suspicious(index_of(many(MIN_REPEATS, [ORDINARY, Box((0, 0, 640, 480))])))
    repeated = found.of(Reason.REPEATED)
    assert found.counts[Reason.REPEATED] == MIN_REPEATS
    assert len(repeated) == 1
    assert f"in {MIN_REPEATS} images" in repeated[0].detail
    assert (
        Reason.REPEATED not in find_suspicious(index_of(many(MIN_REPEATS - 1, [ORDINARY]))).counts
    )
    # in one image it is a duplicate, however often
    twice = index_of([Image((480, 640), [ORDINARY] * MIN_REPEATS)])
    assert Reason.REPEATED not in find_suspicious(twice).counts


def test_a_suspect_says_where_it_is() -> None:
    boxes = [ORDINARY, Box((300, 300, 380, 360)), Box((301, 300, 381, 360), 0)]
    index = index_of([Image((480, 640)), Image((480, 640), boxes)])
    (suspect,) = find_suspicious(index, split="val").suspects
    assert (suspect.split, suspect.file, suspect.where) == ("val", "1.jpg", "annotation 102")
    assert suspect.detail.endswith("with annotation 101")
    assert suspect.box_xyxy == (301, 300, 381, 360)
    assert suspect.other_xyxy == (300, 300, 380, 360)
    assert (suspect.image, suspect.image_id, suspect.class_name) == (1, 1, "cat")
    # annotation ids of other formats are only counted up: the number in the image says more
    (suspect,) = find_suspicious(index_of([Image((480, 640), boxes)], source="data.yaml")).suspects
    assert (suspect.where, suspect.detail) == ("box 3", "IoU 0.975 with box 2")


def test_small_at_the_input_only() -> None:
    image = Image((4000, 4000), [Box((10, 10, 30, 30))])
    assert only(image) == {"tiny": 1}
    large = TrainingSetup(ImageSpec((1280, 1280)))
    assert not find_suspicious(index_of([image]), large).counts


def test_faults_become_suspects() -> None:
    faults = FaultReport()
    faults.add(FaultKind.OUTSIDE, "a.json", "annotation 4", "x 900 to 910")
    faults.add(FaultKind.CLIPPED, "a.json", "annotation 5", "x -9 to 10")
    faults.add(FaultKind.SIZE_MISMATCH, "b.jpg", "image 7", "annotated 9x9, file 8x8")
    faults.add(FaultKind.MISSING_IMAGE, "c.jpg", "image 8")
    found = from_faults(faults)
    assert {r.code: n for r, n in found.counts.items()} == {
        "invalid": 1, "clipped": 1, "wrong-size": 1,
    }  # fmt: skip
    assert [s.where for s in found.ranked()] == ["annotation 4", "image 7", "annotation 5"]


def test_reasons_take_turns() -> None:
    tiny = [Box((9 * i, 9, 9 * i + 2, 11)) for i in range(40)]
    index = index_of([Image((480, 640), [*tiny, ORDINARY, ORDINARY])])
    found = find_suspicious(index)
    reasons = [suspect.reason for suspect in found.ranked(3)]
    assert reasons.count(Reason.TINY) == 2
    assert reasons[0] is Reason.DUPLICATE


def test_all_are_counted_and_the_worst_are_kept() -> None:
    tiny = [Box((4 * i % 600, 4 * (i // 150), 4 * i % 600 + 2, 4 * (i // 150) + 2))
            for i in range(LISTED + 50)]  # fmt: skip
    found = find_suspicious(index_of([Image((480, 640), tiny)]))
    both = found + found
    assert found.counts[Reason.TINY] == LISTED + 50
    assert both.counts[Reason.TINY] == 2 * (LISTED + 50)
    assert len(found.of(Reason.TINY)) == len(both.of(Reason.TINY)) == LISTED


@given(IMAGES)
def test_every_suspect_is_a_box_of_the_data_set(images: list[Image]) -> None:
    index = index_of(images)
    found = find_suspicious(index)
    for suspect in found.suspects:
        assert 0 <= suspect.score <= 1
        assert suspect.image is not None
        rows = index.boxes_of(suspect.image)
        row = index.annotation_ids[rows].tolist().index(suspect.annotation_id)
        assert index.boxes_xyxy[rows][row].tolist() == list(suspect.box_xyxy or ())
        assert not index.iscrowd[rows][row]
    scores = [suspect.score for suspect in found.ranked()]
    assert scores == sorted(scores, reverse=True)


def test_nothing() -> None:
    assert find_suspicious(index_of([])) == Suspicions()
    assert sum((), Suspicions()).total == 0
