"""`detrkit explain attention`: where in a picture the queries of its detections look."""

from __future__ import annotations

from typing import Annotated

import typer

from detrkit.cli.explain_options import (
    ChosenDetections,
    Classes,
    Conf,
    Formats,
    OutputFolder,
    Sources,
    Width,
    checked_sources,
)
from detrkit.cli.options import Device, InputSize, JsonOut, Weights, WeightsConfig


def attention(
    weights: Weights,
    source: Sources = None,
    config: WeightsConfig = None,
    detections: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="How many are drawn, best first; the .npz has all."),
    ] = 4,
    detection: ChosenDetections = None,
    conf: Conf = 0.3,
    classes: Classes = None,
    formats: Formats = None,
    width: Width = "page",
    size: InputSize = None,
    device: Device = None,
    output: OutputFolder = None,
    json: JsonOut = False,
) -> None:
    """What a detection's query samples in each decoder layer: points, weights and their density.

    A point's colour is its level, its area its weight. The .npz has places and weights of all
    heads, layers and detections.
    """
    from detrkit.api import load
    from detrkit.cli.explain_work import Work
    from detrkit.engine.derive import parse_size
    from detrkit.explain.attention import attention as compute
    from detrkit.explain.figures.style import parse_width
    from detrkit.explain.reply import NoSuchDetection
    from detrkit.words import count

    parse_width(width)
    sources = checked_sources(source)
    detector = load(weights, config=config, device=device, size=parse_size(size) if size else None)
    work = Work("attention", output, formats, json=json)
    for image in work.pictures(detector, sources):
        try:
            found = compute(
                detector,
                image,
                conf=conf,
                classes=classes.split(",") if classes else None,
                detections=detection,
            )
        except NoSuchDetection as error:
            work.pass_over(image, {"image": image.path, "detections": []}, error)
            continue
        if not len(found.found):
            work.tell(image, found.to_dict(), f"nothing scores {conf:g} or more")
            continue
        figure = found.figure(width, detections=len(detection) if detection else detections)
        line = f"{count(len(found.found), 'detection')}, {count(len(found.layers), 'layer')}"
        work.write(image, {"": figure}, found.save_numbers, found.to_dict(), line)
    work.end(weights=weights)
