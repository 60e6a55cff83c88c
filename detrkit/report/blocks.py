"""What sections are made of: tables, tiles, notices, figures, galleries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from detrkit.report.html import Content, Html, join, tag, text

#: Rows from which a table gets a field to filter by.
_FILTERED = 12


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: at its head.
        numeric: set to the right, sorted by number, largest first.
        help: shown when the pointer rests on the title.
    """

    title: str
    numeric: bool = False
    help: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell that sorts by something else than what it shows.

    Attributes:
        shown: content.
        key: number or text to sort by.
    """

    shown: Content
    key: float | str


def table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[Content]],
    *,
    caption: str = "",
    sortable: bool = True,
) -> Html:
    """A table; empty without rows.

    Args:
        columns: heads.
        rows: cells as text, numbers, `Html` or `Cell`. The first one names the row.
        caption: what the table lists, also for those who cannot see it.
        sortable: whether a click on a head sorts, and long tables can be filtered.
    """
    body = []
    for row in rows:
        cells = zip(columns, row, strict=True)
        body.append(tag("tr", *(_cell(c, cell, first=c is columns[0]) for c, cell in cells)))
    if not body:
        return Html("")
    heads = [
        tag(
            "th",
            tag("button", column.title, type="button") if sortable else column.title,
            scope="col",
            class_="number" if column.numeric else None,
            title=column.help or None,
        )
        for column in columns
    ]
    grid = tag(
        "table",
        tag("caption", caption) if caption else "",
        tag("thead", tag("tr", join(heads))),
        tag("tbody", join(body)),
        class_="sortable" if sortable else None,
    )
    filtered = sortable and len(body) >= _FILTERED
    field = tag("input", type="search", placeholder="filter", aria_label=f"Filter {caption}")
    return tag(
        "div",
        field if filtered else "",
        tag("div", grid, class_="scroll", tabindex="0", role="region", aria_label=caption or None),
        class_="table",
    )


def _cell(column: Column, cell: Content, *, first: bool) -> Html:
    key: float | str | None = None
    if isinstance(cell, Cell):
        key, cell = cell.key, cell.shown
    elif isinstance(cell, int | float) and not isinstance(cell, bool):
        key = cell
        cell = f"{cell:,}" if isinstance(cell, int) else f"{cell:.3g}"
    if isinstance(key, float) and not math.isfinite(key):
        cell, key = "–", -1e308
    return tag(
        "th" if first else "td",
        cell,
        scope="row" if first else None,
        class_="number" if column.numeric else None,
        data_key=key,
    )


def tiles(values: Iterable[tuple[str, Content, str]]) -> Html:
    """Large numbers: (label, value, note)."""
    return tag(
        "dl",
        *(
            tag("div", tag("dt", label), tag("dd", text(value)),
                tag("dd", note, class_="note") if note else "")
            for label, value, note in values
        ),
        class_="tiles",
    )  # fmt: skip


def notices(items: Iterable[tuple[str, str, Content, str]]) -> Html:
    """Advice: (level: "warning", "hint" or "note"; code; text; what to change)."""
    return tag(
        "ul",
        *(
            tag(
                "li",
                tag("strong", level, class_="level"),
                tag("code", code),
                tag("p", content),
                tag("p", tag("code", change), class_="change") if change else "",
                class_=level,
            )
            for level, code, content, change in items
        ),
        class_="notices",
    )


def figures(items: Iterable[tuple[Html, Content]]) -> Html:
    """Charts with captions, side by side where there is room."""
    return tag(
        "div",
        *(tag("figure", chart, tag("figcaption", caption)) for chart, caption in items if chart),
        class_="figures",
    )


@dataclass(frozen=True)
class Thumbnail:
    """A small picture.

    Attributes:
        uri: `jpeg_uri`; empty: the picture cannot be shown.
        caption: below it.
        alt: what it shows, for those who cannot see it.
        href: where a click on it leads.
    """

    uri: str
    caption: Content
    alt: str
    href: str = ""


def gallery(items: Iterable[Thumbnail]) -> Html:
    """Pictures in rows."""
    shown = [
        tag(
            "figure",
            link(_picture(item), item.href) if item.href else _picture(item),
            tag("figcaption", item.caption),
        )
        for item in items
    ]
    return tag("div", *shown, class_="gallery") if shown else Html("")


def _picture(item: Thumbnail) -> Html:
    if not item.uri:
        return tag("div", "no picture", class_="missing", aria_label=item.alt, role="img")
    return tag("img", src=item.uri, alt=item.alt, loading="lazy")


def link(content: Content, href: str) -> Html:
    """Leads to a file, beside the page."""
    return tag("a", content, href=href, target="_blank", rel="noopener")


def key(entries: Iterable[tuple[tuple[int, int, int], str]]) -> Html:
    """What the colours in pictures mean: (colour, words)."""
    return tag(
        "ul",
        *(
            tag("li", tag("span", style=f"background: rgb{color}", aria_hidden="true"), words)
            for color, words in entries
        ),
        class_="key",
    )


def listing(text: str, label: str) -> Html:
    """Text as it stands in a file.

    Args:
        text: many lines.
        label: what it is.
    """
    return tag(
        "pre", tag("code", text), class_="scroll", tabindex="0", role="region", aria_label=label
    )


def details(summary: Content, *content: Content, opened: bool = False) -> Html:
    """Content that opens on a click."""
    return tag("details", tag("summary", summary), *content, open=opened)
