"""Detections of an ONNX file as a teacher's answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detrkit.engine.distilling.onnx_teacher import OnnxTeacher, _joined
from detrkit.structures import ImageSpec
from tests.engine.test_onnx_runtime import write

STUDENT = ImageSpec((16, 16), mean=(0.5,), std=(0.25,))


@pytest.mark.parametrize("batch", ["N", 1, 2])
def test_scores_and_boxes_of_the_students_batch(tmp_path: Path, batch: int | str) -> None:
    """The file answers with the mean of the pixels: normalisation was undone."""
    teacher = OnnxTeacher(write(tmp_path / "t.onnx", batch=batch), STUDENT, torch.device("cpu"))
    teacher.classes = ([0, 1], [5, 3])  # the student's classes are COCO's bus and motorcycle
    levels = torch.tensor([0.8, 0.4, 0.6])
    pixels = (255 * levels)[:, None, None, None].expand(3, 3, 16, 16)
    answers = teacher(STUDENT.normalized(pixels))
    assert answers.logits is not None
    assert answers.boxes is not None
    scores = answers.logits.sigmoid()
    torch.testing.assert_close(scores[:, 1, 0], levels, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scores[:, 0, 1], levels / 2, rtol=1e-3, atol=1e-3)
    assert scores[:, 0, 0].max() < 1e-3
    expected = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]])
    torch.testing.assert_close(answers.boxes, expected.expand(3, 2, 4))


def test_equal_boxes_are_one_with_the_scores_of_all() -> None:
    boxes = torch.tensor([[[0.0, 0, 1, 1], [0, 0, 0.5, 1], [0, 0, 1, 1]]])
    scores = torch.tensor([[[0.9, 1e-4], [0.5, 1e-4], [1e-4, 0.3]]])
    expected = torch.tensor([[[0.9, 0.3], [0.5, 1e-4], [1e-4, 1e-4]]])
    torch.testing.assert_close(_joined(boxes, scores), expected)
