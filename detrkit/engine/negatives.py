"""`negatives` and `eval_negatives` of a run: images without targets, to learn from and to test."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from detrkit.config import Config
from detrkit.data.dataset import DetectionDataset
from detrkit.data.image_check import ALL_UP_TO, check_bands
from detrkit.data.index import DatasetIndex
from detrkit.data.negatives import at_most, open_negatives
from detrkit.data.same_files import same_files
from detrkit.engine.distributed.group import is_main
from detrkit.engine.oa_candidates import CandidateFiles
from detrkit.engine.oa_watch import OverActivationWatch
from detrkit.engine.observers.base import Observer
from detrkit.engine.parts import build_postprocessor
from detrkit.engine.run_dir import RunDirectory
from detrkit.errors import ConfigError
from detrkit.words import count, share

if TYPE_CHECKING:
    from detrkit.engine.session import Session

log = logging.getLogger("detrkit")


def add_negatives(cfg: Config, train: DetectionDataset, seed: int) -> None:
    """Adds the images of `negatives` to the training images; nothing without them.

    Args:
        cfg: the configuration.
        train: changed in place, before anything of it is read.
        seed: of the part that `negatives_share` leaves.

    Raises:
        DataError: they cannot be read.
        UsageError: `negatives_share` makes no sense.
    """
    run = cfg.run
    if not run.negatives:
        return
    found = open_negatives(run.negatives, train.class_map)
    check_bands(found, train.in_channels)
    chosen = found
    if run.negatives_share is not None:
        chosen = at_most(found, len(train), run.negatives_share, seed)
    own = {path: i for i, path in enumerate(train.index.paths)}
    twice = shared_images(chosen, list(own))
    boxes = np.diff(train.index.offsets)
    annotated = [(a, b) for a, b in twice if boxes[own[b]]]
    if annotated:
        log.warning(
            "negatives: %d of the images in %s are training images with boxes, e.g. %s and %s: "
            "the same picture teaches both",
            len(annotated),
            run.negatives,
            *annotated[0],
        )
    train.extend(chosen)
    log.info(
        "+ %s without targets from %s%s: %s of the training images",
        count(len(chosen), "image"),
        run.negatives,
        f" ({len(found)} there, negatives_share {run.negatives_share:g})"
        if len(chosen) < len(found)
        else "",
        share(len(chosen), len(train)),
    )


def open_eval_negatives(cfg: Config, train: DetectionDataset) -> DatasetIndex | None:
    """The images of `eval_negatives`; None without them.

    Those that are trained on are named in a warning: false detections on them prove nothing.

    Args:
        cfg: the configuration.
        train: the training images, `negatives` included.

    Raises:
        ConfigError: `oa_threshold` or `oa_tolerance` makes no sense.
        DataError: they cannot be read.
    """
    run = cfg.run
    if not run.eval_negatives:
        return None
    if not 0 < run.oa_threshold <= 1:
        raise ConfigError(f"oa_threshold is a score in 0–1, above 0; got {run.oa_threshold}")
    if run.oa_tolerance < 0:
        raise ConfigError(f"oa_tolerance must not be negative, got {run.oa_tolerance}")
    found = open_negatives(run.eval_negatives, train.class_map, key="eval_negatives")
    check_bands(found, train.in_channels)
    twice = shared_images(found, list(train.index.paths))
    if twice:
        log.warning(
            "eval_negatives: %d of %d images are trained on as well, e.g. %s%s: "
            "false detections on them prove nothing",
            len(twice),
            len(found),
            twice[0][0],
            f" (= {twice[0][1]})" if twice[0][0] != twice[0][1] else "",
        )
    return found


def build_over_activation(
    session: Session, directory: RunDirectory, observers: Sequence[Observer]
) -> OverActivationWatch | None:
    """Counts false detections beside a training; only in the main process of a run that asks.

    Args:
        session: with its `eval_negatives`, if any.
        directory: of the run.
        observers: of the run.
    """
    run = session.config.run
    if session.eval_negatives is None or not is_main():
        return None
    if session.val is None:
        log.warning(
            "without validation data there is no best_oa.pth: "
            "a detector that finds nothing has the fewest false detections"
        )
    return OverActivationWatch(
        session.eval_negatives,
        CandidateFiles(directory, run.oa_tolerance, run.best_metric),
        build_postprocessor(session.config),
        session.class_map,
        session.image_spec,
        device=session.device,
        threshold=run.oa_threshold,
        epochs=session.plan.epochs,
        observers=observers,
    )


def shared_images(index: DatasetIndex, paths: Collection[str]) -> list[tuple[str, str]]:
    """Images of `index` that are also among `paths`, with those that they are (`same_files`)."""
    # a stat of each of a million files takes minutes on a network disk
    return same_files(index.paths, paths, contents=len(paths) <= ALL_UP_TO)
