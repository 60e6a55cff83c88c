"""`detrkit explain heatmap`: which places of a picture make the detector answer so."""

from __future__ import annotations

from typing import Annotated

import typer

from detrkit.cli.explain_options import (
    ChosenDetections,
    DetectorOptions,
    FigureOptions,
    LayerNames,
    ListLayers,
    Sources,
    checked_sources,
    print_layers,
)
from detrkit.cli.options import Classes, Conf, MaxDet, class_names
from detrkit.cli.spread import spread


@spread
def heatmap(
    options: DetectorOptions,
    source: Sources = None,
    *,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME…",
            help="gradcam, gradcam++, hirescam, layercam, xgradcam, eigencam, eigengradcam, "
            "rollout (attention of a vision transformer or of AIFI) or cross-attention (of the "
            "decoder's queries); several side by side.",
        ),
    ] = "layercam",
    layer: LayerNames = None,
    layers: ListLayers = False,
    of: Annotated[
        str,
        typer.Option(
            "--of",
            metavar="WHAT",
            help="What is explained: class, box, or its left, top, right or bottom edge.",
        ),
    ] = "class",
    each: Annotated[
        bool,
        typer.Option(
            "--each",
            help="A map for each detection, not one for all together. The best eight are drawn, "
            "the .npz has all.",
        ),
    ] = False,
    detection: ChosenDetections = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="A panel for each layer, not one for all.")
    ] = False,
    conf: Conf = 0.3,
    classes: Classes = None,
    max_det: MaxDet = 300,
    figures: FigureOptions,
) -> None:
    """Heat maps: which places of a picture speak for a class, or hold an edge of a box.

    By default of all detections together, over the maps that leave the encoder. Beside each figure
    lie the maps as .npz.
    """
    from detrkit.cli.explain_work import Work
    from detrkit.explain.heatmap import check_words
    from detrkit.explain.heatmap import heatmap as compute
    from detrkit.explain.reply import NoSuchDetection

    methods = method.split(",")
    check_words(methods, of)
    sources = [] if layers else checked_sources(source)
    work = Work("heatmap", options, figures)
    if layers:
        print_layers(work.detector, work.json)
        return
    for image in work.pictures(sources):
        try:
            maps = compute(
                work.detector,
                image,
                method=methods,
                layers=layer,
                explained=of,
                each=each,
                detections=detection,
                conf=conf,
                classes=class_names(classes),
                max_det=max_det,
            )
        except NoSuchDetection as error:
            work.pass_over(image, {"image": image.path, "maps": []}, error)
            continue
        if not maps.maps:
            work.tell(image, maps.to_dict(), f"nothing scores {conf:g} or more: no map")
            continue
        figure = maps.figure(work.inches, per_layer=per_layer)
        line = ", ".join(f"{one.name} {one.score:.2f}" for one in maps.found[:4])
        more = f" and {len(maps.found) - 4} more" if len(maps.found) > 4 else ""
        work.write(image, {"": figure}, maps.save_numbers, maps.to_dict(), line + more)
    work.end()
