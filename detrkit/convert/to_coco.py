"""Writing documents as COCO: `annotations/instances_<split>.json`, `images/<split>/` on request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from detrkit.convert.document import CocoDocument
from detrkit.convert.headers import Progress
from detrkit.convert.output import staged
from detrkit.convert.placement import put_all, referring_names
from detrkit.convert.placing import Place
from detrkit.convert.summary import SplitCounts, Summary
from detrkit.data.coco_writer import write_coco
from detrkit.data.faults import FaultReport
from detrkit.data.splits import SPLIT_NAMES
from detrkit.errors import UsageError


def write(
    documents: Mapping[str, CocoDocument],
    output: Path,
    *,
    place: Place = Place.refer,
    force: bool = False,
    sources: list[Path] | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Writes a COCO data set.

    Args:
        documents: {split: document}.
        output: a folder, or a .json file for a single split.
        place: images stay where they are and the file names lead there, or they come to
            `images/<split>`.
        force: replace a former result.
        sources: annotation files that are being read.
        progress: called with the number of images brought and of all.

    Raises:
        UsageError: there is a result already, several splits are to go into one file, or images
            beside a single file.
        DetrkitError: it cannot be written.
    """
    if output.suffix.lower() == ".json":
        if len(documents) > 1:
            raise UsageError(
                f"{output}: {len(documents)} splits ({', '.join(documents)}) do not fit in a file",
                hint="name a folder with --output; it gets a file for each split",
            )
        if place is not Place.refer:
            raise UsageError(f"--place {place.value} needs a folder as --output")
        folder, files = output.parent, dict.fromkeys(documents, output.name)
        parts = [output.name]
    else:
        folder = output
        files = {split: f"annotations/instances_{split}.json" for split in documents}
        parts = [f"annotations/instances_{split}.json" for split in SPLIT_NAMES]
        if place is not Place.refer:
            parts = [f"images/{split}" for split in SPLIT_NAMES] + parts
    reads = [*(sources or []), *(f for d in documents.values() for f in d.files)]
    counts: dict[str, SplitCounts] = {}
    faults: list[FaultReport] = []
    with staged(folder, parts, force=force, sources=reads) as stage:
        for split, document in documents.items():
            if place is Place.refer:
                old = [str(image["file_name"]) for image in document.images]
                names = referring_names(old, document.files, folder / files[split])
            else:
                document, names = put_all(
                    document, stage / "images" / split, place, progress=progress
                )
            images = zip(document.images, names, strict=True)
            write_coco(
                stage / files[split],
                images=(image | {"file_name": name} for image, name in images),
                annotations=document.annotations(),
                categories=document.categories,
                more=document.more,
            )
            counts[split] = SplitCounts.of_document(document)
            faults.append(document.faults)
    return Summary(output, "COCO", counts, FaultReport.merge(faults))
