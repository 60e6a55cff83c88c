"""`detrkit explain attention`: where in a picture the queries of its detections look."""

from __future__ import annotations

from typing import Annotated

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


@spread
def attention(
    options: DetectorOptions,
    source: Sources = None,
    *,
    detections: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="How many are drawn, best first; the .npz has all."),
    ] = 4,
    detection: ChosenDetections = None,
    conf: Conf = 0.3,
    classes: Classes = None,
    figures: FigureOptions,
) -> None:
    """What a detection's query samples in each decoder layer: points, weights and their density.

    A point's colour is its level, its area its weight. The .npz has places and weights of all
    heads, layers and detections.
    """
    from detrkit.cli.explain_work import Work
    from detrkit.explain.attention import attention as compute
    from detrkit.explain.reply import NoSuchDetection
    from detrkit.words import count

    sources = checked_sources(source)
    work = Work("attention", options, figures)
    for image in work.pictures(sources):
        try:
            found = compute(
                work.detector,
                image,
                conf=conf,
                classes=class_names(classes),
                detections=detection,
            )
        except NoSuchDetection as error:
            work.pass_over(image, {"image": image.path, "detections": []}, error)
            continue
        if not len(found.found):
            work.tell(image, found.to_dict(), f"nothing scores {conf:g} or more")
            continue
        figure = found.figure(work.inches, detections=len(detection) if detection else detections)
        line = f"{count(len(found.found), 'detection')}, {count(len(found.layers), 'layer')}"
        work.write(image, {"": figure}, found.save_numbers, found.to_dict(), line)
    work.end()
