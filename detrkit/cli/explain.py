"""`detrkit explain`: what a detector looks at, drawn for a paper; one file for each subject."""

from __future__ import annotations

from collections.abc import Callable


def explain() -> None:
    """Draw what a detector looks at: heat maps, feature maps, receptive fields and more."""


#: The commands of the group.
COMMANDS: dict[str, Callable[..., None]] = {}
