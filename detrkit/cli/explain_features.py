"""`detrkit explain features`: what layers return for a picture."""

from __future__ import annotations

from typing import Annotated

import typer

from detrkit.cli.explain_options import (
    DetectorOptions,
    FigureOptions,
    LayerNames,
    ListLayers,
    Sources,
    checked_sources,
    print_layers,
)
from detrkit.cli.spread import spread


@spread
def features(
    options: DetectorOptions,
    source: Sources = None,
    *,
    layer: LayerNames = None,
    layers: ListLayers = False,
    energy: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME…",
            help="How the channels become one map: mean (of |x|), l2, max, pca (first principal "
            "component); several below each other.",
        ),
    ] = "mean",
    channels: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Also draw the N channels of each layer that differ most; 0: none.",
        ),
    ] = 15,
    plain: Annotated[
        bool, typer.Option("--plain", help="The energies' cells alone, not over the picture.")
    ] = False,
    figures: FigureOptions,
) -> None:
    """Feature maps: where layers are active, and grids of their channels.

    By default of what leaves the backbone and the encoder. The .npz has all channels.
    """
    from detrkit.cli.explain_work import Work
    from detrkit.explain.features import check_energies
    from detrkit.explain.features import features as compute
    from detrkit.words import count

    energies = energy.split(",")
    check_energies(energies)
    sources = [] if layers else checked_sources(source)
    work = Work("features", options, figures)
    if layers:
        print_layers(work.detector, work.json)
        return
    for image in work.pictures(sources):
        found = compute(work.detector, image, layers=layer or ("backbone", "encoder"))
        drawn = {"": found.figure(work.inches, energy=energies, on_picture=not plain)}
        for one in found.maps if channels else ():
            drawn[f"-{one.layer}"] = found.channels_figure(
                one.layer, work.inches, channels=channels
            )
        line = count(len(found.maps), "layer")
        work.write(image, drawn, found.save_numbers, found.to_dict(), line)
    work.end()
