"""Answers from memory: those of the same pixels, within a budget, for as long as they come."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detrkit.distillation.cache import AnswerCache
from detrkit.distillation.losses.base import Edges
from detrkit.distillation.teacher import Answers, DetectorTeacher, Respec
from tests.distillation.detectors import CLASSES, SIZE, detector
from tests.distillation.test_any_two import STUDENT_SPEC, TEACHER_SPEC

Q, K = 3, 2


class Counted:
    """Says of every picture what its pixels are on average; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, images: Tensor) -> Answers:
        self.asked += 1
        means = images.double().mean((1, 2, 3)).float()[:, None, None]
        edges = Edges(
            means.expand(-1, 4 * Q, 5).reshape(-1, 4, 5), means.expand(-1, Q, 4).reshape(-1, 4),
            torch.tensor([0.5]), torch.tensor([4.0]),
        )  # fmt: skip
        maps = {"encoder.0": images.mean(1, keepdim=True)}
        return Answers(means.expand(-1, Q, K), means.expand(-1, Q, 4), edges, maps)


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def same(first: Answers, second: Answers) -> bool:
    assert first.edges is not None
    assert second.edges is not None
    pairs = [
        (first.logits, second.logits),
        (first.boxes, second.boxes),
        (first.edges.logits, second.edges.logits),
        (first.edges.references, second.edges.references),
        *((first.maps[stage], second.maps[stage]) for stage in first.maps | second.maps),
    ]
    return all(torch.equal(a, b) for a, b in pairs)  # type: ignore[arg-type]


def test_the_same_pictures_in_another_order() -> None:
    cache, teacher, images = AnswerCache(1), Counted(), pictures(4)
    cache.ask(teacher, images[:2])
    cache.ask(teacher, images[2:])
    order = [3, 0, 2, 1]
    found = cache.ask(teacher, images[order])
    assert teacher.asked == 4
    assert same(found, Counted()(images[order]))


@pytest.mark.parametrize("what", ["one bit", "flipped", "shape"])
def test_another_picture_is_asked_for(what: str) -> None:
    cache, teacher, image = AnswerCache(1), Counted(), pictures(1)
    cache.ask(teacher, image)
    other = {"flipped": image.flip(3), "shape": image.reshape(1, 3, 4, 16)}.get(what)
    if other is None:
        other = image.clone()
        other.view(torch.int32)[0, 1, 2, 3] ^= 1
    assert same(cache.ask(teacher, other), Counted()(other))
    assert teacher.asked == 2


def test_only_new_pictures_of_a_batch_are_asked_for() -> None:
    cache, teacher, images = AnswerCache(1), Counted(), pictures(3)
    cache.ask(teacher, images[:2])
    assert same(cache.ask(teacher, images), Counted()(images))
    assert teacher.asked == 3


def test_what_is_kept_changes_no_more() -> None:
    cache, teacher, images = AnswerCache(1), Counted(), pictures(2)
    expected = Counted()(images)
    cache.ask(teacher, images).maps["encoder.0"].zero_()
    cache.ask(teacher, images).maps["encoder.0"].zero_()
    assert same(cache.ask(teacher, images), expected)


def test_it_keeps_no_more_than_allowed(caplog: pytest.LogCaptureFixture) -> None:
    teacher, images = Counted(), pictures(4)
    probe = AnswerCache(1)
    probe.ask(teacher, images[:1])
    cache = AnswerCache(2.5 * probe.bytes / 1e6)
    for image in images.split(1):
        cache.ask(teacher, image)
    assert len(cache) == 2
    assert cache.bytes == 2 * probe.bytes <= cache.limit
    with caplog.at_level("INFO", "detrkit"):
        for _ in range(3):
            cache.begin_epoch()
            for image in images.split(1):
                cache.ask(teacher, image)
    (record,) = caplog.records
    assert "50 % of the pictures of an epoch are answered" in record.getMessage()


def test_what_an_epoch_did_not_bring_goes(caplog: pytest.LogCaptureFixture) -> None:
    cache, teacher = AnswerCache(1), Counted()
    with caplog.at_level("WARNING", "detrkit"):
        for epoch in range(3):
            cache.begin_epoch()
            cache.ask(teacher, pictures(2, seed=epoch))
            assert len(cache) <= 4
    assert "no picture came twice" in caplog.text
    cache.begin_epoch()
    assert len(cache) == 2
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


def test_an_answer_is_the_same_beside_other_pictures() -> None:
    """Else a run that was resumed, with an empty memory, would go another way."""
    teacher = DetectorTeacher(
        detector("dfine_n_coco", seed=1).eval(),
        Respec(STUDENT_SPEC, TEACHER_SPEC, (96, 96)),
        torch.arange(CLASSES),
        ["encoder.0", "backbone.1"],
    )
    images = torch.rand(6, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    cache = AnswerCache(100)
    for part in images.split(2):
        cache.ask(teacher, part)
    mixed = images[[5, 0]]
    found = cache.ask(teacher, mixed)
    assert same(found, AnswerCache(100).ask(teacher, mixed))
    together = teacher(mixed)
    for one, other in ((found.logits, together.logits), (found.boxes, together.boxes)):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
