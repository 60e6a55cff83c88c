"""What is detected in images in which there is nothing to find."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath

import numpy as np

from detrkit.drawing.thumbnails import Thumbnails
from detrkit.metrics import Negatives
from detrkit.metrics.curves import CONFIDENCES
from detrkit.metrics.over_activation import THRESHOLDS
from detrkit.metrics.schema import FalseImageJson, OverActivationJson
from detrkit.report import (
    Cell,
    Column,
    Html,
    Thumbnail,
    details,
    figures,
    gallery,
    join,
    lines,
    link,
    relative_url,
    table,
    tag,
)
from detrkit.report.cells import cell

#: Images with a picture: with the 120 of the other sections, 30 kB each, they stay within 5 MB.
_PICTURES = 12
#: Of the confidences, so many apart are drawn.
_EVERY = 10
#: Orange of Okabe and Ito, as detections elsewhere in the report.
_DETECTED = (230, 159, 0)


def false_detections(
    negatives: Negatives, numbers: OverActivationJson, folder: Path
) -> Iterable[Html]:
    """Numbers over the confidence, classes, and the worst images.

    Args:
        negatives: the images and what was found.
        numbers: `negatives.to_dict`.
        folder: where the page will lie.
    """
    confidence = numbers["confidence"]
    levels = negatives.found.levels(CONFIDENCES[::_EVERY].tolist())
    chart = lines(
        [level.threshold for level in levels],
        {"clean images": np.array([level.clean_rate for level in levels])},
        title="Share of images without a false detection over the confidence",
        x_axis="confidence",
        y_axis="share of images",
        mark=None if confidence is None else (confidence, f"{confidence:.3f}"),
    )
    yield figures([(chart, "Share of the images in which nothing is detected.")])
    yield table(
        [
            Column("score from", True),
            Column("detections", True),
            Column("per image", True, "false positives per image, FPPI"),
            Column("images with any", True),
            Column("clean images", True),
        ],
        [
            (
                cell(level["threshold"], "{:.3g}"), level["detections"],
                cell(level["fppi"], "{:.3f}"), level["images_with_detections"],
                cell(100 * level["clean_rate"], "{:.1f} %"),
            )
            for level in numbers["levels"]
        ],
        caption=f"False detections in {numbers['images']:,} images; highest score "
        f"{numbers['max_score']:.3f}, of an image on average {numbers['mean_max_score']:.3f}",
        sortable=False,
    )  # fmt: skip
    yield table(
        [Column("class"), Column("detections", True)],
        [(row["name"], row["detections"]) for row in numbers["classes"]],
        caption=f"What is detected, from score {THRESHOLDS[0]} on",
    )
    yield from _worst(negatives, numbers, folder)


def _worst(negatives: Negatives, numbers: OverActivationJson, folder: Path) -> Iterable[Html]:
    worst = numbers["worst"]
    if not worst:
        return
    yield tag("h3", "Worst images")
    places = {path: number for number, path in enumerate(negatives.index.paths)}
    pictures = Thumbnails({"": negatives.index})

    def picture(image: FalseImageJson) -> Thumbnail:
        x, y, w, h = image["detected_box"]
        file, words = PurePath(image["file"]).name, f"{image['detected']} {image['score']:.2f}"
        return Thumbnail(
            pictures.crop("", places[image["file"]], [((x, y, x + w, y + h), _DETECTED)]),
            join([tag("strong", words), f" {file}"]),
            f"{words}, in {file}",
            relative_url(image["file"], folder),
        )

    yield gallery(picture(image) for image in worst[:_PICTURES])
    rows = []
    for image in worst:
        name = PurePath(image["file"]).name
        rows.append(
            (
                Cell(link(name, relative_url(image["file"], folder)), name),
                cell(image["score"], "{:.3f}"), image["detected"], image["detections"],
            )
        )  # fmt: skip
    columns = [
        Column("file"),
        Column("highest score", True),
        Column("detected"),
        Column("detections", True, f"from score {THRESHOLDS[0]} on"),
    ]
    some = sum(map(bool, map(len, negatives.found.shown)))
    title = f"All {some} of them" if some == len(worst) else f"The first {len(worst)} of {some}"
    yield details(title, table(columns, rows, caption="Worst images"))
