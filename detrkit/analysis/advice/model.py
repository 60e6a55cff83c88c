"""What the model has to be able to do: input size and shape, queries."""

from __future__ import annotations

import math
from collections.abc import Iterator

from detrkit.analysis.advice.kinds import Advice, Severity
from detrkit.analysis.advice.words import counted, flag, multiple, percent, pixel_count
from detrkit.analysis.findings import Findings
from detrkit.analysis.setup import size_text

#: Share of objects under one cell of the finest map from which a larger input is worth trying.
MANY_SMALL = 0.05
#: Aspect ratio of the images over that of the input.
OBLONG = 1.5


def queries(findings: Findings) -> Iterator[Advice]:
    """More objects in an image than the model can answer."""
    setup, split = findings.setup, findings.together
    most, limit, over = split.objects.max, setup.most_found, split.images_over_queries
    if over:
        yield Advice(
            "queries",
            Severity.WARNING,
            f"{counted(over, 'image')} {'holds' if over == 1 else 'hold'} more than {limit} "
            f"objects, at most {most:.0f}. The model finds {limit} of them at best, and in "
            "training the others stay unmatched.",
            _more_queries(findings, 1.2 * most),
        )
    elif split.images and split.objects.p999 > 0.5 * limit:
        yield Advice(
            "queries",
            Severity.HINT,
            f"The fullest image holds {most:.0f} objects (99.9th percentile "
            f"{split.objects.p999:.0f}) and the model has {setup.num_queries} queries. As a rule "
            "of thumb there should be two or three times as many queries as objects.",
            _more_queries(findings, 2 * most),
        )
    judged = findings.val or split
    if judged.images_over_100:
        yield Advice(
            "max-detections",
            Severity.NOTE,
            f"{counted(judged.images_over_100, 'image')} of `{judged.name}` "
            f"{'holds' if judged.images_over_100 == 1 else 'hold'} more than 100 objects. COCO's "
            "AP counts the best 100 detections of an image, so not even a perfect model reaches "
            "an AP of 1 there.",
        )


def _more_queries(findings: Findings, least: float) -> str:
    wanted = math.ceil(least / 100) * 100
    key = findings.setup.queries_key
    change = f"-u {key or 'DFINETransformer.num_queries'}={wanted} num_top_queries={wanted}"
    return change if key else f"{change} (or the decoder of your config)"


def input_size(findings: Findings) -> Iterator[Advice]:
    """Objects smaller than a cell of the finest feature map."""
    split, setup = findings.train or findings.together, findings.setup
    if not split.boxes:
        return
    cell = 8 if setup.strides[0] <= 8 else 16
    here = next(at for at in split.at_inputs if at.size == setup.size)
    larger = [at for at in split.at_inputs if pixel_count(at.size) > pixel_count(setup.size)]
    share = here.share_under(cell)
    if share > MANY_SMALL and larger:
        enough = (at for at in larger if at.share_under(cell) < MANY_SMALL)
        better = next(enough, larger[-1])
        cost = pixel_count(better.size) / pixel_count(setup.size)
        native = math.sqrt(split.image_heights.median * split.image_widths.median)
        enlarged = (
            f" The pictures have about {native:.0f}x{native:.0f} pixels (median), so this "
            "enlarges them: it adds positions, no detail."
            if native < math.sqrt(pixel_count(better.size)) * 0.9
            else ""
        )
        yield Advice(
            "input-size",
            Severity.WARNING if share > 4 * MANY_SMALL else Severity.HINT,
            f"{percent(share)} of the objects are under {cell} px at {setup.size_text}: smaller "
            f"than one cell of the finest feature map (stride {cell}), and hard to find. At "
            f"{size_text(better.size)} it is {percent(better.share_under(cell))}, for about "
            f"{cost:.1f} times the compute.{enlarged}"
            + (
                " Cutting the pictures into tiles is the other way."
                if better.share_under(cell) > 2 * MANY_SMALL
                else ""
            ),
            f"--size {flag(better.size)}",
        )
        return
    smaller = [at for at in split.at_inputs if pixel_count(at.size) < pixel_count(setup.size)]
    enough = (at for at in smaller if at.share_under(16) < 0.005 and at.median >= 64)
    cheaper = next(enough, None)
    if cheaper is not None:
        cost = pixel_count(setup.size) / pixel_count(cheaper.size)
        yield Advice(
            "smaller-input",
            Severity.NOTE,
            f"Even at {size_text(cheaper.size)} the median object is {cheaper.median:.0f} px and "
            f"{percent(cheaper.share_under(16)) if cheaper.under_16 else 'none'} are under 16 px. "
            f"That input is about {cost:.1f} times cheaper and may cost little accuracy; try it "
            "where speed matters.",
            f"--size {flag(cheaper.size)}",
        )


def input_shape(findings: Findings) -> Iterator[Advice]:
    """Oblong pictures stretched to a square input."""
    split, setup = findings.together, findings.setup
    if setup.image_spec.resize != "stretch" or not split.images:
        return
    aspects, (h, w) = split.image_aspects, setup.size
    uniform = aspects.p95 < 1.3 * aspects.p5
    ratio = aspects.median / (w / h)
    if uniform and not 1 / OBLONG < ratio < OBLONG:
        height = math.sqrt(h * w / aspects.median)
        fitting = multiple(height), multiple(height * aspects.median)
        narrowed, lost = "width" if ratio > 1 else "height", 1 - min(ratio, 1 / ratio)
        yield Advice(
            "input-shape",
            Severity.HINT,
            f"The pictures are about {aspects.median:.2f} times as wide as high; stretched to "
            f"{setup.size_text} they lose {percent(lost)} of their {narrowed} "
            f"against the other side. {size_text(fitting)} keeps the shape at about the same cost.",
            f"--size {flag(fitting)}",
        )
    elif not uniform and split.distorted_images > 0.05 * split.images:
        yield Advice(
            "mixed-shapes",
            Severity.HINT,
            f"{percent(split.distorted_images / split.images)} of the pictures are stretched more "
            "than twice as far in one direction as in the other, and others are not: the same "
            "object has several shapes. `PadToSize` after a `Resize` with `max_size` keeps shapes.",
            "the transforms of train_dataloader and val_dataloader",
        )


def large_files(findings: Findings) -> Iterator[Advice]:
    """Pictures far larger than the input."""
    split, setup = findings.together, findings.setup
    if not split.images:
        return
    pixels = split.image_heights.median * split.image_widths.median
    factor = pixels / pixel_count(setup.size)
    if factor > 9:
        yield Advice(
            "large-files",
            Severity.NOTE,
            f"The median picture has {pixels / 1e6:.0f} megapixels, {factor:.0f} times the input. "
            "Every epoch decodes all of them: copies scaled to about twice the input load faster "
            "and look the same to the model.",
        )
