"""Which query made which detection: the ranking of a detector's postprocessor."""

from __future__ import annotations

from detrkit.engine.runtime import TorchRuntime
from detrkit.errors import UsageError
from detrkit.models.postprocess import PostProcessor


def ranking_of(runtime: TorchRuntime) -> PostProcessor:
    """The postprocessor of a detector, which ranks what its queries say.

    Raises:
        UsageError: it is another one, which does not tell queries from detections.
    """
    processor = runtime.postprocessor
    if not isinstance(processor, PostProcessor):
        raise UsageError(
            f"the postprocessor {type(processor).__name__} does not say which query made a "
            "detection",
            hint="derive it from detrkit.models.postprocess.PostProcessor",
        )
    return processor
