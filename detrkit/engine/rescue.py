"""What a run that is broken off leaves: its state, and a word on how to go on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from detrkit.engine.distributed.group import barrier, world_size
from detrkit.engine.distributed.meeting import agreed
from detrkit.engine.interrupt import Stop
from detrkit.errors import DetrkitError, Interrupted, TrainingDiverged

if TYPE_CHECKING:
    from detrkit.engine.trainer import Trainer

log = logging.getLogger("detrkit")


def save_interrupted(trainer: Trainer, stop: BaseException) -> None:
    """Saves the state between two steps, and says where the run was interrupted.

    Args:
        trainer: of the run.
        stop: a wish (`Stop`), or a KeyboardInterrupt.

    Raises:
        Interrupted: always.
    """
    # A second Ctrl-C breaks off in the middle of a step: that state is worth nothing.
    clean = isinstance(stop, Stop)
    if clean:
        trainer.watch.settle()
        trainer.keeper.save_last(trainer.snapshot())
        barrier()  # whoever leaves first ends the others' connections
    where = f"epoch {trainer.state.epoch + 1}, batch {trainer.state.batch}/{len(trainer.loader)}"
    error = Interrupted(
        f"interrupted in {where}" + ("; the state is saved" if clean else ""),
        hint=f"continue with: detrkit resume {trainer.keeper.directory}"
        if trainer.keeper.can_resume()
        else "nothing was saved yet",
    )
    raise (agreed(error) if clean else error) from None


def rescue(trainer: Trainer, error: Exception) -> None:
    """Saves the state when loading or evaluation fails, which is between two steps.

    Not when this process has made no step (another configuration may be needed), nor with
    several processes, of which the others are in the middle of one.
    """
    if isinstance(error, Stop) or trainer.state.step == trainer.begun or world_size() > 1:
        return
    try:
        trainer.watch.settle()
        trainer.keeper.save_last(trainer.snapshot())
    except TrainingDiverged:
        raise
    except Exception as unsaved:
        log.warning("the state is not saved: %s", unsaved)
        return
    saved = f"the state is saved; continue with: detrkit resume {trainer.keeper.directory}"
    if isinstance(error, DetrkitError):
        error.hint = f"{error.hint}; {saved}" if error.hint else saved
    else:
        log.warning("%s", saved)
