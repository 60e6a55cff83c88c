"""What the findings mean for training: numbers, a reason, and what to change.

Each rule is a function from `Findings` to advice. Thresholds are rules of thumb unless a comment
says where one comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from detrkit.analysis.advice import labels, model, splits, training
from detrkit.analysis.advice.kinds import Advice, Severity
from detrkit.analysis.findings import Findings

#: In the order in which advice of one severity is given.
RULES: tuple[Callable[[Findings], Iterable[Advice]], ...] = (
    labels.nothing_to_learn,
    labels.left_out,
    splits.leaks,
    labels.label_errors,
    labels.similar_names,
    splits.classes_of_splits,
    splits.split_scale,
    model.queries,
    model.input_size,
    model.input_shape,
    training.rare_classes,
    labels.backgrounds,
    splits.validation,
    training.schedule,
    splits.surplus,
    training.mosaic,
    model.large_files,
)


def advise(findings: Findings) -> tuple[Advice, ...]:
    """All that applies, warnings first."""
    found = [advice for rule in RULES for advice in rule(findings)]
    order = list(Severity)
    return tuple(sorted(found, key=lambda advice: order.index(advice.severity)))


__all__ = ["RULES", "Advice", "Severity", "advise"]
