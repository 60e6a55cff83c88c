"""Drawing: where boxes and names land, every kind of picture, nothing to draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detrkit.drawing import draw_boxes, draw_detections, draw_targets, to_picture
from detrkit.drawing.boxes import _Label
from detrkit.drawing.fonts import clean
from detrkit.structures import ClassMap, Detections, ImageSpec, Target

CLASSES = ClassMap.from_names(["cat", "dog"])


def found(boxes: list[tuple[float, ...]], size: tuple[int, int] = (100, 200)) -> Detections:
    n = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.1, n, dtype=np.float32),
        np.arange(n) % 2,
        CLASSES,
        size,
    )


def blank(w: int = 200, h: int = 100) -> Image.Image:
    return Image.new("RGB", (w, h))


def test_box_is_drawn_on_its_pixels_in_its_colour() -> None:
    picture = draw_detections(found([(20, 30, 120, 80)]), blank(), line_width=1)
    pixels = np.asarray(picture)
    assert tuple(pixels[60, 20]) == tuple(pixels[60, 120]) == CLASSES.colors[0]
    assert tuple(pixels[80, 60]) == CLASSES.colors[0]
    assert not pixels[40:70, 30:110].any()  # nothing inside
    assert pixels[18:29, 22:60].any()  # the name, above


def test_the_image_given_is_not_changed() -> None:
    image = blank()
    draw_detections(found([(20, 30, 120, 80)]), image)
    assert not np.asarray(image).any()


def test_boxes_follow_a_picture_of_another_size() -> None:
    small = draw_detections(found([(20, 30, 120, 80)]), blank(400, 200), line_width=1)
    assert tuple(np.asarray(small)[120, 40]) == CLASSES.colors[0]
    large = draw_detections(found([(20, 30, 120, 80)]), blank(), line_width=1, enlarge_to=400)
    assert large.size == (400, 200)
    assert tuple(np.asarray(large)[120, 40]) == CLASSES.colors[0]


def test_better_detections_lie_over_worse_ones() -> None:
    d = found([(10, 30, 90, 80), (10, 30, 90, 80)])
    pixels = np.asarray(draw_detections(d, blank(), line_width=1))
    assert tuple(pixels[80, 50]) == CLASSES.colors[0]


def test_min_score_and_nothing_found() -> None:
    d = found([(10, 30, 90, 80), (100, 30, 150, 80)])
    assert not np.asarray(draw_detections(d, blank(), min_score=0.95)).any()
    assert not np.asarray(draw_detections(found([]), blank())).any()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-1e6, 1e6) | st.just(float("nan"))] * 4), max_size=5),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
def test_any_box_on_any_size(boxes: list[tuple[float, ...]], size: tuple[int, int]) -> None:
    picture = draw_detections(found(boxes, (size[1], size[0])), blank(*size))
    assert picture.size == size


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 199), st.integers(0, 99), st.integers(0, 199), st.integers(0, 99)),
    st.text(min_size=1, max_size=12),
)
def test_names_stay_inside_the_picture(box: tuple[int, int, int, int], text: str) -> None:
    label = _Label.fit(clean(text), 12, (0, 0, 0))
    x1, x2 = sorted(box[::2])
    y1, y2 = sorted(box[1::2])
    if label.place((x1, y1, x2, y2), (200, 100), []):
        left, top, right, bottom = label.at
        assert 0 <= left < right <= 200
        assert 0 <= top < bottom <= 100
    else:
        assert label.width > 200


def test_second_name_steps_aside() -> None:
    first, second = (_Label.fit("cat 0.90", 12, (0, 0, 0)) for _ in range(2))
    box = (20, 40, 150, 80)
    assert first.place(box, (200, 100), [])
    assert second.place(box, (200, 100), [first.at])
    a, b = first.at, second.at
    assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert to_picture(Image.new(mode, (5, 4))).mode == "RGB"


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    image = Image.fromarray(np.full((4, 5), 0x8000, np.uint16))
    assert np.asarray(to_picture(image)).max() == 0x80


def test_model_input_is_undone() -> None:
    image = torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8)
    spec = ImageSpec((6, 8), channels="bgr", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    expected = image.permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(np.asarray(to_picture(spec.prepare(image), spec)), expected)
    np.testing.assert_array_equal(np.asarray(to_picture(image)), expected)
    np.testing.assert_array_equal(np.asarray(to_picture(image / 255)), expected)


def test_targets_land_where_they_are() -> None:
    target = Target(torch.tensor([[0.5, 0.6, 0.5, 0.4]]), torch.tensor([1]))
    pixels = np.asarray(draw_targets(torch.zeros(3, 100, 200), target, CLASSES, line_width=1))
    assert tuple(pixels[60, 50]) == tuple(pixels[60, 150]) == CLASSES.colors[1]


def test_targets_without_boxes_or_names() -> None:
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert not np.asarray(draw_targets(torch.zeros(3, 20, 30), empty)).any()
    target = Target(torch.tensor([[0.5, 0.6, 0.5, 0.4]]), torch.tensor([7]))
    assert np.asarray(draw_targets(torch.zeros(3, 100, 200), target)).any()
    assert np.asarray(draw_targets(torch.zeros(3, 100, 200), target, CLASSES)).any()


def test_detections_draw_reads_the_file_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (100, 200), "white")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated: shown 200 x 100
    image.save(tmp_path / "turned.jpg", exif=exif)
    d = found([(20, 30, 120, 80)])
    with pytest.raises(ValueError, match="give the image"):
        d.draw()
    d.path = str(tmp_path / "turned.jpg")
    assert d.draw().size == (200, 100)


def test_captions_may_be_empty() -> None:
    picture = draw_boxes(blank(), np.array([[20, 30, 120, 80]]), [""], [(255, 0, 0)], line_width=1)
    assert not np.asarray(picture)[:29].any()


def test_tracks_keep_a_colour_of_their_own() -> None:
    """The same object in two frames, taken for another class in the second."""
    seen = []
    for label, track in ((0, 5), (1, 5), (0, 6)):
        found = Detections(
            np.array([[10, 40, 90, 90]], np.float32),
            np.ones(1, np.float32),
            np.array([label]),
            ClassMap.from_names(["cat", "dog"]),
            orig_size=(100, 100),
            track_ids=np.array([track]),
        )
        drawn = draw_detections(found, np.zeros((100, 100, 3), np.uint8), line_width=4)
        seen.append(drawn.getpixel((11, 88)))
    assert seen[0] == seen[1] != seen[2]
