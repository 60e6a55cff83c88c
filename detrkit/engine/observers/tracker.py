"""What keeps curves and pictures of runs: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

#: How a run ended.
Outcome = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True)
class RunFacts:
    """What a tracker is told about a run before its first step.

    Attributes:
        folder: of the run.
        name: of the run; `exp_name`, else the folder's.
        project: `project_name`, else "detrkit".
        config: the resolved configuration, as plain data.
        environment: versions and hardware.
        classes: names in the order of the labels.
        first_step: optimizer steps that were done before; not 0 for a resumed run.
        kept: what the same tracker gave back from `begin` when the run was started.
        files: of the folder, small, that tell what is run.
    """

    folder: Path
    name: str
    project: str = "detrkit"
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    classes: Sequence[str] = ()
    first_step: int = 0
    kept: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[Path] = ()


class Tracker:
    """Methods run one after another in a thread of their own, and may raise or be slow.

    The constructor imports the tracker's package, in the main thread, and raises
    MissingExtraError where there is none.
    """

    #: As in `loggers:`.
    name = ""
    #: Where people look at it; shown once.
    where = ""

    def begin(self, run: RunFacts) -> Mapping[str, str]:
        """Opens the run, or the same one again.

        Returns:
            What is needed to do so after the next interruption; kept in the run's folder.
        """
        return {}

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves.

        Args:
            values: by name (`detrkit.engine.log_names`); finite.
            step: optimizer steps done before.
        """

    def picture(self, name: str, path: Path, step: int) -> None:
        """A picture in the run's folder."""

    def end(self, outcome: Outcome, best: Mapping[str, float], files: Sequence[Path]) -> None:
        """The run is over.

        Args:
            outcome: how it ended.
            best: values of the best epoch by name, and `best/epoch`, from 1.
            files: small results to keep: tables, not checkpoints.
        """
