"""HTML reports: one self-contained file each, without network, libraries or fonts of its own.

    page = Page("Evaluation of best.pth", "val of bccd")
    page.add("Classes", table([Column("class"), Column("AP", numeric=True)], rows), lead="…")
    Path("report.html").write_bytes(page.encode())

Text is escaped wherever it enters (`tag` escapes all that is not `Html` already), so names from
data sets can hold anything. Charts are inline SVG, photographs inline JPEG, drawings inline PNG.
"""

from detrkit.report.blocks import (
    Cell,
    Column,
    Thumbnail,
    details,
    figures,
    gallery,
    key,
    link,
    listing,
    notices,
    table,
    tiles,
)
from detrkit.report.charts import bars, heat_map, histogram, lines, matrix
from detrkit.report.html import Html, join, prose, tag
from detrkit.report.page import Page
from detrkit.report.pictures import drawing, jpeg_uri, relative_url

__all__ = [
    "Cell",
    "Column",
    "Html",
    "Page",
    "Thumbnail",
    "bars",
    "details",
    "drawing",
    "figures",
    "gallery",
    "heat_map",
    "histogram",
    "join",
    "jpeg_uri",
    "key",
    "lines",
    "link",
    "listing",
    "matrix",
    "notices",
    "prose",
    "relative_url",
    "table",
    "tag",
    "tiles",
]
