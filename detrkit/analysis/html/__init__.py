"""The report on a data set as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from detrkit.analysis.advice import Advice
from detrkit.analysis.findings import Findings
from detrkit.analysis.html.cases import duplicates, examples, faults, suspicious
from detrkit.analysis.html.charts import cooccurrence, differences, images, objects
from detrkit.analysis.html.overview import classes, overview, split_table
from detrkit.data.index import DatasetIndex
from detrkit.drawing.thumbnails import Thumbnails
from detrkit.report import Page, notices, prose, tag


def report(
    findings: Findings,
    advice: Sequence[Advice],
    *,
    top: int = 10,
    parts: Mapping[str, DatasetIndex] | None = None,
) -> Page:
    """The page.

    Args:
        findings: of the data set.
        advice: what follows from them.
        top: suspicious boxes per reason, and groups of duplicates.
        parts: the splits, for pictures; None: a report without pictures.
    """
    pictures = Thumbnails(parts) if parts is not None else None
    name = PurePath(findings.source).name or findings.source
    setup = findings.setup
    judged = f"Judged for an input of {setup.size_text} and {setup.num_queries} queries"
    judged += f", as in {setup.source}." if setup.source else "."
    page = Page(f"Data set {name}", f"{findings.source}. {judged}")
    page.add("Overview", overview(findings), split_table(findings))
    page.add(
        "What it means for training",
        notices((a.severity.value, a.code, prose(a.text), a.change) for a in advice)
        if advice
        else tag("p", "Nothing stands out."),
    )
    page.add("Classes", *classes(findings))
    page.add(
        "Objects",
        *objects(findings),
        lead="Size is the root of width times height. Crowd regions are not counted.",
    )
    page.add("Images", images(findings))
    page.add(
        "Classes in the same image",
        cooccurrence(findings),
        lead="Of the images that show the class of the row, the share that shows that of the "
        "column as well.",
    )
    page.add("Splits compared", differences(findings))
    page.add(
        "Suspicious boxes",
        *suspicious(findings, top, pictures),
        lead="Ranked by how much they look like a mistake; real objects can look like that too.",
    )
    page.add("Duplicate pictures", *duplicates(findings, top, pictures))
    page.add("Faults", *faults(findings))
    if parts is not None and pictures is not None:
        page.add(
            "Examples",
            *examples(findings, parts, pictures),
            lead="Boxes drawn at random from each class.",
        )
    return page
