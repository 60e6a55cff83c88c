"""Generated evaluations: images with boxes and detections near them, in many degrees of right."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from detrkit.metrics.predictions import Predictions
from detrkit.metrics.truth import Truth
from detrkit.structures import ClassMap
from tests.metrics.cases import Columns


def scene(
    seed: int,
    images: int = 6,
    classes: int = 3,
    boxes: int = 8,
    detections: int = 20,
    crowds: float = 0.1,
    levels: int = 0,
) -> tuple[Truth, Predictions]:
    """Boxes and detections of which some are shifted, of another class, repeated, or anywhere.

    Args:
        seed: of everything.
        images, classes: how many.
        boxes, detections: at most so many per image.
        crowds: share of crowd regions.
        levels: so many different scores, hence ties; 0: none are equal.
    """
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, boxes + 1, images)
    total = int(counts.sum())
    corners = rng.integers(0, 150, (total, 2)).astype(float)
    sides = rng.integers(8, 120, (total, 2)).astype(float)
    labels = rng.integers(0, max(classes - 1, 1), total)  # the last class has no boxes
    ids = rng.permutation(images * 3)[:images]
    columns = Columns(
        image_ids=ids.tolist(),
        sizes=np.full((images, 2), 300),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes_xyxy=np.concatenate([corners, corners + sides], 1),
        labels=labels,
        iscrowd=rng.random(total) < crowds,
        area=sides.prod(1) * rng.choice([0.3, 1.0], total),
        class_map=ClassMap(
            tuple(f"class {k}" for k in range(classes)), tuple(range(5, 5 + classes))
        ),
    )
    truth = Truth.of(columns)
    owners, found, kinds = [], [], []
    for image in rng.permutation(images).tolist():
        own = np.flatnonzero(truth.images == image)
        for _ in range(int(rng.integers(0, detections + 1))):
            box = np.array([*rng.integers(0, 150, 2), *rng.integers(8, 120, 2)], float)
            kind = int(rng.integers(0, classes))
            if len(own) and rng.random() < 0.8:
                near = int(rng.choice(own))
                shift = rng.choice([0, 0, 2, 8, 25]) * rng.standard_normal(4)
                box = truth.boxes_xywh[near] + shift.round()
                box[2:] = box[2:].clip(1)
                kind = int(truth.labels[near]) if rng.random() < 0.8 else kind
            owners.append(image)
            found.append(box)
            kinds.append(kind)
    scores = rng.random(len(owners))
    if levels:
        scores = np.ceil(scores * levels) / levels
    return truth, Predictions(
        np.array(owners, np.int32),
        np.array(kinds, np.int32),
        scores,
        np.array(found, np.float64).reshape(-1, 4),
    )


#: Any such scene, small.
scenes = st.builds(
    scene,
    st.integers(0, 2**32 - 1),
    images=st.integers(1, 6),
    classes=st.integers(1, 4),
    boxes=st.integers(0, 8),
    detections=st.integers(0, 30),
    crowds=st.sampled_from([0.0, 0.2, 1.0]),
    levels=st.sampled_from([0, 2, 5]),
)
