"""Which epoch is the best, and when a run has gone on long enough without a better one.

Early stopping as in Prechelt, "Early Stopping - But When?", 1998: the run ends after
N epochs without a better value on the validation data. The authors' recipes need one exception:
their last stage, without strong augmentation and from the best weights so far, often brings the
largest gain of all. So patience that runs out before it skips what is left of the first stage, and
the last stage is trained, with patience counted anew from its first epoch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

from detrkit.config.schema import RunConfig
from detrkit.engine.plan import Plan
from detrkit.errors import UsageError, did_you_mean
from detrkit.metrics.coco import METRIC_MEANINGS, METRIC_NAMES

log = logging.getLogger("detrkit")

#: AP of two sets of weights on N images differs by up to this / sqrt(N) by chance: half the 95 %
#: interval that bootstrap gives (`detrkit compare`), 0.022 to 0.025 on the 72 test images of BCCD.
CHANCE = 0.2

#: What counts where the chosen number is undefined on the validation data.
FALLBACK = "AP"


def check_metric(name: str) -> None:
    """Whether the evaluation reports a number of this name.

    Raises:
        UsageError: it does not.
    """
    if name not in METRIC_NAMES:
        raise UsageError(
            f"--best-metric {name}: no such number{did_you_mean(name, METRIC_NAMES)}",
            hint=f"choose of {', '.join(METRIC_NAMES)}",
        )


@dataclass
class Judge:
    """Compares epochs.

    Attributes:
        metric: the number that makes an epoch the best one; of METRIC_NAMES.
        patience: epochs without a better one after which a run ends; None: never.
        chance: by how much two epochs differ though neither is better.
    """

    metric: str = FALLBACK
    patience: int | None = None
    chance: float = 0.0

    @classmethod
    def of(cls, run: RunConfig, images: int = 0) -> Judge:
        """As a configuration says.

        Args:
            run: its settings.
            images: in the validation data.

        Raises:
            UsageError: there is no such metric, or patience is not a number of epochs.
        """
        check_metric(run.best_metric)
        if run.patience is not None and run.patience < 1:
            raise UsageError(f"--patience must be at least 1, got {run.patience}")
        return cls(run.best_metric, run.patience, CHANCE / math.sqrt(max(images, 1)))

    def require_validation(self, available: bool) -> None:
        """Whether there is anything to judge by.

        Raises:
            UsageError: patience without validation data.
        """
        if self.patience is not None and not available:
            raise UsageError(
                "--patience needs validation data: without them no epoch is better than another",
                hint="hold some images out with --val-fraction 0.1, or leave --patience out",
            )

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """What an epoch is judged by; None: nothing was measured.

        COCO says -1 where there is nothing to find, e.g. for `APs` without small boxes. That is a
        property of the data, the same in every epoch: from the first on AP takes its place.
        """
        value = metrics.get(self.metric, -1.0)
        if value < 0 <= metrics.get(FALLBACK, -1.0):
            log.warning(
                "%s (%s) is undefined on the validation data: %s decides which epoch is the best",
                self.metric,
                METRIC_MEANINGS[self.metric],
                FALLBACK,
            )
            self.metric, value = FALLBACK, metrics[FALLBACK]
        return value if value >= 0 else None

    def next_epoch(self, epoch: int, best_epoch: int, plan: Plan) -> int:
        """The epoch after `epoch`, which was trained: the next one, or later if patience ran out.

        Args:
            epoch: counted from 0, as `best_epoch`, the best so far.
            plan: of the run.

        Returns:
            `plan.epochs` at the end of the run, early or not.
        """
        last_stage = plan.last_stage
        counted_from = best_epoch if epoch < last_stage else max(best_epoch, last_stage - 1)
        if self.patience is None or epoch - counted_from < self.patience:
            return epoch + 1
        return last_stage if epoch < last_stage else plan.epochs
