"""The frame of a report: heading, contents, sections, style."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.resources import files

from detrkit.report.html import Content, Html, join, tag

#: Nothing may be fetched, whatever ends up in the page.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass
class Page:
    """A report in sections.

    Args:
        title: of the page.
        subtitle: below it.
    """

    title: str
    subtitle: Content = ""
    _sections: list[tuple[str, str, Html]] = field(default_factory=list)

    def add(self, title: str, *content: Content, lead: Content = "") -> None:
        """Adds a section; one without content is left out.

        Args:
            title: also in the contents.
            content: blocks, charts, text.
            lead: what the section shows, in a sentence or two.
        """
        body = join(content)
        if body:
            inner = join([tag("p", lead, class_="lead") if lead else "", body])
            self._sections.append((self._anchor(title), title, inner))

    def _anchor(self, title: str) -> str:
        base = re.sub(r"\W+", "-", title.lower()).strip("-") or "section"
        taken = {anchor for anchor, _, _ in self._sections}
        names = (base, *(f"{base}-{number}" for number in range(2, len(taken) + 3)))
        return next(name for name in names if name not in taken)

    def render(self) -> str:
        """The whole file as text."""
        from detrkit import __version__

        folder = files("detrkit.report")
        style = (folder / "report.css").read_text(encoding="utf-8")
        script = (folder / "report.js").read_text(encoding="utf-8")
        links = [
            tag("li", tag("a", title, href=f"#{anchor}")) for anchor, title, _ in self._sections
        ]
        sections = [
            tag("section", tag("h2", title, id=f"{anchor}-title"), body, id=anchor,
                aria_labelledby=f"{anchor}-title")
            for anchor, title, body in self._sections
        ]  # fmt: skip
        head = tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            tag("meta", name="generator", content=f"detrkit {__version__}"),
            tag("title", self.title),
            tag("style", Html(style)),
        )
        body = tag(
            "body",
            tag("header", tag("h1", self.title), tag("p", self.subtitle)),
            tag("nav", tag("ul", join(links)), aria_label="Sections"),
            tag("main", join(sections)),
            tag("footer", f"Made by detrkit {__version__}."),
            tag("script", Html(script)),
        )
        return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"

    def encode(self) -> bytes:
        """The file's bytes; what UTF-8 cannot hold in a file name becomes a question mark."""
        return self.render().encode("utf-8", "replace")
