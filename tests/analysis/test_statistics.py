"""Every number against the plain loop that it stands for."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given

from detrkit.analysis import TrainingSetup, describe
from detrkit.analysis.statistics import input_sizes
from detrkit.structures import ImageSpec
from tests.analysis.made import IMAGES, Box, Image, index_of

SETUP = TrainingSetup(ImageSpec((64, 128)), num_queries=3)


@given(IMAGES)
def test_counts(images: list[Image]) -> None:
    found = describe(index_of(images), SETUP)
    normal = [[box for box in image.boxes if not box.crowd] for image in images]
    every = [box for boxes in normal for box in boxes]
    assert found.images == len(images)
    assert found.boxes == len(every)
    assert found.crowds == sum(len(image.boxes) for image in images) - len(every)
    assert found.empty_images == sum(not boxes for boxes in normal)
    assert found.crowd_only_images == sum(
        not boxes and bool(image.boxes) for boxes, image in zip(normal, images, strict=True)
    )
    assert found.images_over_queries == sum(len(boxes) > 3 for boxes in normal)
    assert found.small + found.medium + found.large == len(every)
    assert found.objects.count == len(images)
    assert found.objects_histogram.total == len(images)
    assert found.side_histogram.total == found.aspect_histogram.total == len(every)
    assert found.coverage_histogram.total == len(every)
    assert found.positions.sum() == found.input_shapes.sum() == len(every)
    assert found.distinct_sizes == len({image.size for image in images})
    assert sum(count for _, count in found.image_sizes) == len(images)
    for label, row in enumerate(found.classes):
        assert row.boxes == sum(box.label == label for box in every)
        assert row.images == sum(any(box.label == label for box in boxes) for boxes in normal)


@given(IMAGES)
def test_sizes(images: list[Image]) -> None:
    found = describe(index_of(images), SETUP)
    sides, aspects, touching = [], [], 0
    for image in images:
        h, w = image.size
        for box in image.boxes:
            if box.crowd:
                continue
            x1, y1, x2, y2 = box.corners
            sides.append(math.sqrt((x2 - x1) * 128 / w * (y2 - y1) * 64 / h))
            aspects.append((x2 - x1) / (y2 - y1))
            touching += x1 <= 0.5 or y1 <= 0.5 or x2 >= w - 0.5 or y2 >= h - 0.5
    if not sides:
        assert math.isnan(found.input_sides.median)
        return
    assert found.input_sides.median == pytest.approx(np.median(sides))
    assert found.aspects.max == pytest.approx(max(aspects))
    assert found.border_share == pytest.approx(touching / len(sides))
    here = next(at for at in found.at_inputs if at.size == (64, 128))
    assert here.under_8 == sum(side < 8 for side in sides)
    assert here.median == pytest.approx(np.median(sides))


@given(IMAGES)
def test_cooccurrence(images: list[Image]) -> None:
    found = describe(index_of(images)).cooccurrence
    present = [{box.label for box in image.boxes if not box.crowd} for image in images]
    for i, j in combinations(range(3), 2):
        assert found[i, j] == found[j, i] == sum({i, j} <= labels for labels in present)


def test_medians_of_a_class() -> None:
    boxes = [Box((0, 0, 10, 40), 1), Box((0, 0, 20, 80), 1), Box((0, 0, 200, 200), 2, area=500)]
    found = describe(index_of([Image((640, 640), boxes)])).classes
    assert (found[1].median_side, found[1].median_aspect) == (30, 0.25)
    assert math.isnan(found[0].median_side)
    # COCO ranges follow the annotated area, which is that of the segment
    assert (found[2].small, found[2].large) == (1, 0)


def test_letterbox_keeps_shapes() -> None:
    image = Image((100, 400), [Box((0, 0, 40, 40))])
    stretched = describe(index_of([image]), TrainingSetup(ImageSpec((200, 200))))
    boxed = describe(index_of([image]), TrainingSetup(ImageSpec((200, 200), resize="letterbox")))
    assert stretched.input_sides.median == pytest.approx(40)  # 20 x 80
    assert boxed.input_sides.median == pytest.approx(20)
    assert (stretched.distorted_images, boxed.distorted_images) == (1, 0)


def test_candidates_keep_the_shape_of_the_input() -> None:
    sizes = input_sizes((480, 640))
    assert (480, 640) in sizes
    assert all(h % 32 == 0 and w % 32 == 0 for h, w in sizes)
    assert all(0.6 < h / w < 0.9 for h, w in sizes)


@pytest.mark.parametrize(
    "images", [[], [Image((10, 10))], [Image((9, 9), [Box((0, 0, 9, 9), 1, True)])]]
)
def test_nothing_to_describe(images: list[Image]) -> None:
    found = describe(index_of(images))
    assert found.boxes == 0
    text = json.dumps(found.to_dict(), default=lambda a: a.tolist())
    assert json.loads(text)["cooccurrence"] == []
