"""`detrkit tune`: fine-tunes weights on a data set."""

from __future__ import annotations

from detrkit.cli.options import ConfigArg, Weights
from detrkit.cli.spread import spread
from detrkit.cli.train import run as _run
from detrkit.cli.train_options import ClassMapFile, LaunchOptions, TrainOptions


@spread
def tune(
    cfg: ConfigArg,
    weights: Weights,
    options: TrainOptions,
    class_map: ClassMapFile = None,
    *,
    launch: LaunchOptions,
) -> None:
    """Fine-tune weights (a file or URL) on a data set.

    Rows of the class heads are copied by class name (a `tvmonitor` is a `tv`); what was loaded
    and what was not is printed. Weights of 80 classes are taken for COCO's, of 365 or 366 for
    those of Objects365.

    Without --epochs a published recipe runs for about 1000 steps, in 12 to 300 epochs.
    """
    _run(cfg, options, launch, tune=weights, class_map=class_map, choose_epochs=True)
