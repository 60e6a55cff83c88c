"""`detrkit explain features`: what layers return for a picture."""

from __future__ import annotations

from typing import Annotated

import typer

from detrkit.cli.explain_options import (
    Formats,
    LayerNames,
    ListLayers,
    OutputFolder,
    Sources,
    Width,
    checked_sources,
    print_layers,
)
from detrkit.cli.options import Device, InputSize, JsonOut, Weights, WeightsConfig


def features(
    weights: Weights,
    source: Sources = None,
    config: WeightsConfig = None,
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
    formats: Formats = None,
    width: Width = "page",
    size: InputSize = None,
    device: Device = None,
    output: OutputFolder = None,
    json: JsonOut = False,
) -> None:
    """Feature maps: where layers are active, and grids of their channels.

    By default of what leaves the backbone and the encoder. The .npz has all channels.
    """
    from detrkit.api import load
    from detrkit.cli.explain_work import Work
    from detrkit.engine.derive import parse_size
    from detrkit.explain.features import check_energies
    from detrkit.explain.features import features as compute
    from detrkit.explain.figures.style import parse_width
    from detrkit.words import count

    energies = energy.split(",")
    check_energies(energies)
    parse_width(width)
    sources = [] if layers else checked_sources(source)
    detector = load(weights, config=config, device=device, size=parse_size(size) if size else None)
    if layers:
        print_layers(detector, json)
        return
    work = Work("features", output, formats, json=json)
    for image in work.pictures(detector, sources):
        found = compute(detector, image, layers=layer or ("backbone", "encoder"))
        figures = {"": found.figure(width, energy=energies, on_picture=not plain)}
        for one in found.maps if channels else ():
            figures[f"-{one.layer}"] = found.channels_figure(one.layer, width, channels=channels)
        line = count(len(found.maps), "layer")
        work.write(image, figures, found.save_numbers, found.to_dict(), line)
    work.end(weights=weights)
