"""`detrkit explain distribution`: the edge distributions of D-FINE and DEIMv2."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from detrkit.cli.explain_options import (
    Conf,
    Formats,
    OutputFolder,
    Sources,
    Width,
    checked_sources,
    output_folder,
    save_figure,
)
from detrkit.cli.options import Device, InputSize, JsonOut, Weights, WeightsConfig

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045


def distribution(
    source: Sources,
    weights: Weights,
    config: WeightsConfig = None,
    conf: Conf = 0.3,
    classes: Annotated[
        Optional[str],
        typer.Option(
            metavar="NAME,NAME…", help="Only these classes, by name or number.", show_default=False
        ),
    ] = None,
    max_det: Annotated[int, typer.Option(min=1, help="Detections per image, the best ones.")] = 1,
    output: OutputFolder = None,
    formats: Formats = None,
    width: Width = "page",
    size: InputSize = None,
    device: Device = None,
    json: JsonOut = False,
) -> None:
    """Draw how a box was refined: the distributions of its edges, layer by layer.

    Of D-FINE, DEIM on D-FINE and DEIMv2: the weighting function W(n), each edge's
    Pr(n) and W(n) · Pr(n) in pixels, and the boxes. RT-DETR has no distributions.

    Beside the figures: distribution.csv, and an .npz of each detection's arrays.
    """
    from detrkit.api import load
    from detrkit.cli.broken import BrokenSources
    from detrkit.cli.console import err, print_json, say_result
    from detrkit.engine.derive import parse_size
    from detrkit.explain.decoder_trace import refining_decoder_of
    from detrkit.explain.distribution import distribution as refined
    from detrkit.explain.figures.style import parse_width
    from detrkit.explain.layers import network
    from detrkit.explain.numbers import write_csv, write_npz
    from detrkit.explain.opened import open_pictures

    sources, inches = checked_sources(source), parse_width(width)
    detector = load(weights, config=config, device=device, size=parse_size(size) if size else None)
    refining_decoder_of(network(detector))
    wanted = classes.split(",") if classes else None
    detector.class_map.indices(wanted or ())
    broken = BrokenSources()
    folder, rows = None, []
    entries: list[dict[str, Any]] = []
    names: dict[str, int] = {}
    for opened in open_pictures(detector, sources, broken.add):
        folder = folder or output_folder("distribution", output)
        found = refined(detector, opened, conf=conf, classes=wanted, max_det=max_det)
        if not found and not json:
            say_result(f"{opened.path}: nothing scores {conf:g} or more")
        for each in found:
            names[opened.name] = number = names.get(opened.name, 0) + 1
            stem = f"{opened.name}-{number}"
            files = save_figure(each.figure(inches), folder, stem, formats)
            files.append(write_npz(folder / f"{stem}.npz", each.arrays()))
            rows += each.rows()
            entries.append({**each.to_dict(), "files": files})
            if not json:
                shifts = ", ".join(
                    f"{row['edge']} {row['shift_pixels']:+.1f}" for row in each.rows()[-4:]
                )
                say_result(f"{files[0]}: {each.name} {each.score:.2f}; moved by {shifts} px")
    if folder is not None:
        write_csv(folder / "distribution.csv", rows)
        broken.write(folder)
    if json:
        print_json(
            "explain-distribution",
            {"output": folder, "detections": entries, "broken": broken.entries()},
        )
    elif folder is not None:
        err.print(f"numbers in {folder / 'distribution.csv'}", markup=False, soft_wrap=True)
    broken.raise_any(folder)
