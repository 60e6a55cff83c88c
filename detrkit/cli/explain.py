"""`detrkit explain`: what a detector looks at, drawn for a paper; one file for each subject."""

from __future__ import annotations

from collections.abc import Callable

from detrkit.cli.explain_assignments import assignments
from detrkit.cli.explain_attention import attention
from detrkit.cli.explain_distribution import distribution
from detrkit.cli.explain_erf import erf
from detrkit.cli.explain_features import features
from detrkit.cli.explain_heatmap import heatmap
from detrkit.cli.explain_queries import queries


def explain() -> None:
    """Draw what a detector looks at: heat maps, feature maps, receptive fields and more."""


#: The commands of the group.
COMMANDS: dict[str, Callable[..., None]] = {
    "heatmap": heatmap,
    "attention": attention,
    "features": features,
    "erf": erf,
    "distribution": distribution,
    "queries": queries,
    "assignments": assignments,
}
