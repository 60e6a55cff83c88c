"""`report.html` and `metrics.json` of a run: what its best epoch found, explained.

They are those of `detrkit eval -o`, counted from the detections that the epoch left in
`best_predictions.json`: no image goes through the model again. So speed and costs are not in them.
"""

from __future__ import annotations

import logging

from detrkit.engine.curves import read_curves
from detrkit.engine.run_dir import RunDirectory, environment
from detrkit.engine.session import Session
from detrkit.metrics import Truth, evaluate
from detrkit.metrics.results_file import read_results

log = logging.getLogger("detrkit")


def has_report(session: Session, directory: RunDirectory) -> bool:
    """Whether a run ends with a report: it is wanted, and there are detections to report on."""
    wanted = session.config.run.report and session.val is not None
    return wanted and directory.best_predictions.is_file()


def write_final_report(session: Session, directory: RunDirectory) -> None:
    """Writes the two files; a warning where that fails. Only the main process calls it.

    Args:
        session: with its validation data.
        directory: of the run.
    """
    if not has_report(session, directory):
        return
    assert session.val is not None
    try:
        from detrkit import eval_report

        index = session.val.dataset.index
        truth = Truth.of(index)
        found = evaluate(truth, read_results(directory.best_predictions, truth).predictions)
        numbers = {
            "weights": str(directory.best),
            "data": _name_of_data(session),
            "environment": environment(),
            "config": session.config.dump(),
            "predictions": str(directory.best_predictions),
            **found.to_dict(sources=index),
        }
        eval_report.write(
            directory.path,
            found,
            str(directory.path),
            numbers,
            index,
            curves_over_epochs=read_curves(directory.curves),
        )
    except Exception as error:
        # the run is done and saved; a report must not make it look failed
        log.warning("no report on the best epoch: %s", error)


def _name_of_data(session: Session) -> str:
    data = session.config.run.data
    return f"{data}, validation" if data else f"validation data of {session.config.name}"
