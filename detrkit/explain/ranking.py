"""Which query made which detection."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from torch import Tensor

from detrkit.engine.runtime import TorchRuntime
from detrkit.errors import UsageError
from detrkit.models.postprocess import PostProcessor


class Answer(NamedTuple):
    """A detection, by the query that made it.

    Attributes:
        query: its number.
        label: class index.
        score: 0–1.
    """

    query: int
    label: int
    score: float


def ranking_of(runtime: TorchRuntime) -> PostProcessor:
    """The postprocessor of a detector, which ranks what its queries say.

    Raises:
        UsageError: it is another one, which does not tell queries from detections.
    """
    if not isinstance(runtime.postprocessor, PostProcessor):
        raise UsageError(
            f"the postprocessor {type(runtime.postprocessor).__name__} does not say which query "
            "made a detection",
            hint="derive it from detrkit.models.postprocess.PostProcessor",
        )
    return runtime.postprocessor


def answers_of(
    runtime: TorchRuntime,
    logits: Tensor,
    *,
    conf: float = 0.0,
    classes: Collection[int] | None = None,
    max_det: int | None = None,
) -> list[list[Answer]]:
    """The detections of a batch, best first, by their queries.

    Args:
        runtime: a checkpoint's.
        logits: (B, Q, K) that it computed.
        conf: lowest score.
        classes: indices to keep; None: all.
        max_det: at most so many per image.

    Raises:
        UsageError: as of `ranking_of`.
    """
    labels, queries, scores = ranking_of(runtime).rank(logits)
    found = []
    for image in zip(queries.tolist(), labels.tolist(), scores.tolist(), strict=True):
        answers = [Answer(*row) for row in zip(*image, strict=True)]
        kept = [a for a in answers if a.score >= conf and (classes is None or a.label in classes)]
        found.append(kept[:max_det])
    return found
