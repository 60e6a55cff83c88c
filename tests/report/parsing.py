"""Reads a page back: is it well formed, and does it fetch anything?"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

_VOID = {"br", "hr", "img", "input", "link", "meta"}


class Parsed(HTMLParser):
    """The elements, their attributes and the visible text of a page.

    Raises:
        AssertionError: an end tag has no beginning or the other way round.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in _VOID:
            self._open.append(tag)
        for key, value in attrs:
            self.attributes.append((tag, key, value or ""))
            if key == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> without a beginning"
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def check(page: str, *, links: bool = False) -> Parsed:
    """A page that is well formed, fetches nothing and runs no handlers of its own.

    Args:
        page: its text.
        links: whether it may lead to files beside it.
    """
    parsed = Parsed(page)
    assert page.startswith("<!doctype html>")
    assert parsed.tags.count("script") == parsed.tags.count("style") == 1
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(parsed.tags)
    assert len(set(parsed.ids)) == len(parsed.ids)
    for tag, key, value in parsed.attributes:
        assert not key.startswith("on"), (tag, key)
        if key in ("src", "srcset", "poster", "background", "xlink:href"):
            assert re.match(r"data:image/(jpeg|png);base64,", value), (tag, key, value[:80])
        if key == "href" and links and not value.startswith("#"):
            assert value
            assert not re.match(r"[a-z]+:|//", value), value
        elif key == "href":
            assert value.startswith("#"), (tag, key, value[:80])
            assert value[1:] in parsed.ids
    inner = re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", page, re.DOTALL)
    assert len(inner) == 2
    for content in inner:
        assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch|import\(|XMLHttp", content)
    return parsed


def check_accessible(page: Parsed) -> None:
    """Headings without gaps, words for all that is drawn, and every scrolling part reachable."""
    headings = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(headings))
    assert page.tags.count("table") == page.tags.count("caption")
    assert {"header", "nav", "main", "footer"} <= set(page.tags)
    for tag, attributes in page.elements:
        if tag == "html":
            assert attributes["lang"]
        if tag == "img":
            assert attributes["alt"].strip()
        if tag in ("svg", "input") or attributes.get("role") in ("img", "region"):
            assert attributes["aria-label"].strip(), (tag, attributes)
        if "scroll" in attributes.get("class", "").split():
            assert attributes["tabindex"] == "0"
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
