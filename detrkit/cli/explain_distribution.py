"""`detrkit explain distribution`: the edge distributions of D-FINE and DEIMv2."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrkit.cli.explain_options import (
    ChosenDetections,
    DetectorOptions,
    FigureOptions,
    Sources,
    checked_sources,
)
from detrkit.cli.options import Classes, Conf, class_names
from detrkit.cli.spread import spread

if TYPE_CHECKING:
    from detrkit.explain.distribution import EdgeDistributions


@spread
def distribution(
    options: DetectorOptions,
    source: Sources,
    *,
    conf: Conf = 0.3,
    classes: Classes = None,
    max_det: Annotated[int, typer.Option(min=1, help="Detections per image, the best ones.")] = 1,
    detection: ChosenDetections = None,
    figures: FigureOptions,
) -> None:
    """How a box was refined: the distributions of its edges, layer by layer.

    Of D-FINE, DEIM on D-FINE and DEIMv2: the weighting function W(n), each edge's
    Pr(n) and W(n) · Pr(n) in pixels, and the boxes. RT-DETR has no distributions.

    Beside the figures: distribution.csv, and an .npz of each picture's arrays.
    """
    from detrkit.cli.explain_work import Work
    from detrkit.explain.decoder_trace import refining_decoder_of
    from detrkit.explain.distribution import distribution as refined
    from detrkit.explain.layers import network
    from detrkit.explain.numbers import write_csv
    from detrkit.explain.reply import NoSuchDetection

    sources = checked_sources(source)
    work, rows = Work("distribution", options, figures), []
    refining_decoder_of(network(work.detector))
    wanted = class_names(classes)
    work.detector.class_map.indices(wanted or ())
    for image in work.pictures(sources):
        try:
            found = refined(
                work.detector,
                image,
                conf=conf,
                classes=wanted,
                max_det=max_det,
                detections=detection,
            )
        except NoSuchDetection as error:
            work.pass_over(image, {"path": image.path, "detections": []}, error)
            continue
        entry = {"path": image.path, "detections": [each.to_dict() for each in found]}
        if not found:
            work.tell(image, entry, f"nothing scores {conf:g} or more: no box")
            continue
        numbers = dict.fromkeys(detection) if detection else range(len(found))
        drawn = {f"-{n + 1}": e.figure(work.inches) for n, e in zip(numbers, found, strict=True)}
        work.write(image, drawn, partial(_write, found), entry, "; ".join(map(_line, found)))
        rows += [row for each in found for row in each.rows()]
    if work.folder is not None:
        write_csv(work.folder / "distribution.csv", rows)
    work.end()


def _write(found: list[EdgeDistributions], path: Path) -> None:
    """The arrays of all detections of a picture, those of each one after the other."""
    import numpy as np

    from detrkit.explain.numbers import write_npz

    arrays = [each.arrays() for each in found]
    write_npz(path, {name: np.stack([each[name] for each in arrays]) for name in arrays[0]})


def _line(found: EdgeDistributions) -> str:
    from detrkit.explain.distribution import EDGES

    edges = zip(EDGES, found.shifts[-1].tolist(), strict=True)
    shifts = ", ".join(f"{edge} {round(shift, 1) + 0.0:+.1f}" for edge, shift in edges)
    return f"{found.name} {found.score:.2f}: {shifts} px"
