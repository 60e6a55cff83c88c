"""Weights & Biases: https://docs.wandb.ai

`WANDB_MODE`, `WANDB_ENTITY`, `WANDB_API_KEY` and the other variables of W&B work as usual. Without
a login, or where the server cannot be reached, the run is kept in its folder and can be sent
later with `wandb sync`.
"""

from __future__ import annotations

import logging
import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from detrkit.engine.observers.tracker import Outcome, RunFacts, Tracker
from detrkit.errors import MissingExtraError

log = logging.getLogger("detrkit")

#: Seconds to reach the server in.
_PATIENCE = 20
_EXIT_CODES: dict[Outcome, int] = {"finished": 0, "interrupted": 130, "failed": 1}


class WandB(Tracker):
    """A run of Weights & Biases; curves over optimizer steps, metrics over epochs as well."""

    name = "wandb"

    def __init__(self) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # read by the import; we say what matters
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("wandb", "loggers", "logging to Weights & Biases") from error
        self._wandb: Any = wandb

    def begin(self, run: RunFacts) -> Mapping[str, str]:
        """Starts the run, or continues the one with the id in `run.kept`."""
        number = run.kept.get("id") or secrets.token_hex(4)
        mode = None if "WANDB_MODE" in os.environ or _has_login() else "offline"
        if mode == "offline":
            log.warning("no login of W&B is found (`wandb login`): %s", _kept_in(run))
        try:
            self._run = self._start(run, number, mode)
        except Exception as error:
            if mode == "offline":
                raise
            log.warning("W&B cannot be reached (%s): %s", type(error).__name__, _kept_in(run))
            # the failed attempt still holds the id in this process
            offline = secrets.token_hex(4)
            self._run = self._start(run, offline, "offline")
            number = run.kept.get("id") or offline
        # no step= below: W&B drops steps that lie behind, as those after an interruption do
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("epoch", hidden=True)
        self._run.define_metric("*", step_metric="step")
        self._run.define_metric("val/*", step_metric="epoch")
        for path in run.files:
            self._run.save(str(path), base_path=str(run.folder), policy="now")
        self.where = _web_address(self._run)
        return {"id": number}

    def _start(self, run: RunFacts, number: str, mode: str | None) -> Any:
        return self._wandb.init(
            project=run.project,
            name=run.name,
            id=number,
            resume="allow",
            mode=mode,
            dir=str(run.folder),
            config={
                **run.config,
                "environment": dict(run.environment),
                "classes": list(run.classes),
            },
            settings=self._wandb.Settings(
                console="off", silent=True, init_timeout=_PATIENCE, reinit="create_new"
            ),
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves."""
        self._run.log({**values, "step": step})

    def picture(self, name: str, path: Path, step: int) -> None:
        """The picture, beside the curves."""
        self._run.log({name: self._wandb.Image(str(path)), "step": step})

    def end(self, outcome: Outcome, best: Mapping[str, float], files: Sequence[Path]) -> None:
        """The best epoch becomes the run's summary."""
        self._run.summary.update(dict(best))
        for path in files:
            self._run.save(str(path), base_path=str(path.parent), policy="now")
        self._run.finish(exit_code=_EXIT_CODES[outcome])


def _has_login() -> bool:
    """Whether W&B would start without asking: it must not, from the middle of a training run."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    given = os.environ.get("NETRC")
    for path in [Path(given)] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(str(path)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
    return False


def _kept_in(run: RunFacts) -> str:
    return f"the run is kept in {run.folder / 'wandb'}; send it later with `wandb sync`"


def _web_address(run: Any) -> str:
    """The run's page; empty when offline."""
    return "" if getattr(run, "offline", False) or run.disabled else str(run.url or "")
