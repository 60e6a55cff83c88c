"""`detrkit explain`: what a detector looks at, drawn for a paper; one file for each subject."""

from __future__ import annotations

from collections.abc import Callable

from detrkit.cli.explain_assignments import assignments
from detrkit.cli.explain_distribution import distribution
from detrkit.cli.explain_queries import queries


def explain() -> None:
    """Draw what a detector looks at: heat maps, feature maps, receptive fields and more."""


#: The commands of the group.
COMMANDS: dict[str, Callable[..., None]] = {
    "distribution": distribution,
    "queries": queries,
    "assignments": assignments,
}
