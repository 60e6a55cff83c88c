"""MLflow tracking: https://mlflow.org/docs/latest/ml/tracking

`MLFLOW_TRACKING_URI` names the server. Without it MLflow's own default holds: a database
`mlflow.db` in the working folder, which `mlflow ui` shows.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detrkit.engine.observers.tracker import Outcome, RunFacts, Tracker
from detrkit.errors import MissingExtraError

#: Limits of a server: parameters in one request, characters of a value.
_MOST, _LONGEST = 100, 500
_STATUS: dict[Outcome, str] = {
    "finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"
}  # fmt: skip
_NOT_ALLOWED = re.compile(r"[^\w\-. /]")


class MLflow(Tracker):
    """A run of MLflow, in the experiment named as the project."""

    name = "mlflow"

    def __init__(self) -> None:
        try:
            import mlflow
            from mlflow.entities import Metric, Param
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise MissingExtraError("mlflow", "loggers", "logging to MLflow") from error
        for name in ("mlflow", "alembic"):  # they tell about each table of a new database
            logging.getLogger(name).setLevel(logging.WARNING)
        self._mlflow, self._metric, self._param = mlflow, Metric, Param
        self._make_client: Any = MlflowClient

    def begin(self, run: RunFacts) -> Mapping[str, str]:
        """Starts the run, or continues the one with the id in `run.kept`."""
        # a database belongs to the folder the run was started in; servers stay the environment's
        address = run.kept.get("tracking_uri") or self._mlflow.get_tracking_uri()
        self._client = self._make_client(tracking_uri=address)
        number = run.kept.get("run_id")
        if number is None:
            number = self._create(run)
        else:
            self._client.update_run(number, status="RUNNING")
        self._number = number
        self.where = f"run {number} in {_without_password(address)}"
        kept = {"run_id": number}
        if address.startswith(("sqlite:", "file:", "/")):
            kept["tracking_uri"] = address
        return kept

    def _create(self, run: RunFacts) -> str:
        known = self._client.get_experiment_by_name(run.project)
        experiment = known.experiment_id if known else self._client.create_experiment(run.project)
        made = self._client.create_run(experiment, run_name=run.name)
        number: str = made.info.run_id
        facts = {**run.config, "environment": run.environment, "classes": list(run.classes)}
        params = [
            self._param(_NOT_ALLOWED.sub("_", key)[:250], value[:_LONGEST])
            for key, value in _flat(facts)
        ]
        for first in range(0, len(params), _MOST):
            self._client.log_batch(number, params=params[first : first + _MOST])
        for path in run.files:
            self._client.log_artifact(number, str(path))
        return number

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves, in one request."""
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._number, metrics=metrics)

    def picture(self, name: str, path: Path, step: int) -> None:
        """An artifact below `pictures/`."""
        folder = Path("pictures", name).parent.as_posix()
        self._client.log_artifact(self._number, str(path), folder)

    def end(self, outcome: Outcome, best: Mapping[str, float], files: Sequence[Path]) -> None:
        """The best epoch becomes metrics of their own."""
        self.scalars(best, 0)
        for path in files:
            self._client.log_artifact(self._number, str(path))
        self._client.set_terminated(self._number, _STATUS[outcome])


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """("optimizer.lr", "0.0002"), …; lists without mappings inside stay whole."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        for number, item in enumerate(value):
            yield from _flat(item, f"{key}.{number}")
    else:
        yield key, str(value)


def _without_password(address: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", address)
