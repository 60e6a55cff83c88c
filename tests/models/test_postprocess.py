"""Outputs to detections."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.models.postprocess import PostProcessor
from detrkit.structures import ClassMap, ImageSpec

NAMES = ClassMap(("cat", "dog", "owl"), (3, "d", 11))


@settings(max_examples=40, deadline=None)
@given(queries=st.integers(1, 12), classes=st.integers(1, 5), top=st.integers(1, 40))
def test_ranks_all_classes_of_all_queries(queries: int, classes: int, top: int) -> None:
    logits = torch.randn(2, queries, classes)
    boxes = torch.rand(2, queries, 4)
    labels, found, scores = PostProcessor(classes, num_top_queries=top)(logits, boxes)
    assert scores.shape == (2, min(top, queries * classes))
    for i in range(2):
        ranked = sorted(
            ((logits[i, q, k].item(), q, k) for q in range(queries) for k in range(classes)),
            reverse=True,
        )
        for n, (logit, q, k) in enumerate(ranked[:top]):
            assert labels[i, n] == k
            assert torch.equal(found[i, n], boxes[i, q])
            assert scores[i, n].item() == pytest.approx(torch.tensor(logit).sigmoid().item())


def test_softmax_scores_leave_out_nothing() -> None:
    logits = torch.tensor([[[0.0, 3.0, 1.0], [9.0, 0.0, 0.0], [0.0, 0.0, 9.0]]])
    boxes = torch.arange(12.0).view(1, 3, 4)
    process = PostProcessor(2, use_focal_loss=False, num_top_queries=2)
    labels, found, scores = process(logits, boxes)
    assert labels.tolist() == [[0, 1]]
    assert torch.equal(found, boxes[:, [1, 0]])
    assert torch.allclose(scores, logits.softmax(-1)[0, [1, 0], [0, 1]])


def test_detections_are_pixels_of_the_original() -> None:
    outputs = {
        "pred_logits": torch.tensor([[[-9.0, 5.0, -9.0]], [[-9.0, -9.0, 2.0]]]),
        "pred_boxes": torch.tensor([[[0.5, 0.5, 0.5, 0.25]], [[0.25, 0.5, 0.5, 1.0]]]),
    }
    process = PostProcessor(3, num_top_queries=1)
    first, second = process.postprocess(
        outputs, [(100, 200), (64, 64)], ImageSpec((32, 32)), NAMES, ["a", 7], ["a.jpg", None]
    )
    np.testing.assert_allclose(first.boxes_xyxy, [[50, 37.5, 150, 62.5]])
    np.testing.assert_allclose(second.boxes_xyxy, [[0, 0, 32, 64]])
    assert (first.names, second.names) == (["dog"], ["owl"])
    assert first.labels.dtype == np.int64
    assert (first.image_id, first.path, first.orig_size) == ("a", "a.jpg", (100, 200))
    assert first.to_coco()[0]["category_id"] == "d"


def test_letterbox_is_undone() -> None:
    outputs = {
        "pred_logits": torch.full((1, 1, 3), 1.0),
        "pred_boxes": torch.tensor([[[0.5, 0.25, 1.0, 0.5]]]),  # the upper half: all content
    }
    spec = ImageSpec((64, 64), resize="letterbox")
    (found,) = PostProcessor(3, num_top_queries=1).postprocess(outputs, [(100, 200)], spec, NAMES)
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 200, 100]], atol=1e-4)


def test_exports() -> None:
    process = PostProcessor(3, num_top_queries=4).eval()
    example = (torch.randn(1, 5, 3), torch.rand(1, 5, 4))
    exported = torch.export.export(process, example).module()
    for a, b in zip(exported(*example), process(*example), strict=True):
        assert torch.equal(a, b)
