"""Building HTML so that nothing can be left unescaped by accident."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})

Content = object  # anything with a text; `Html` is taken as it is


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: Content) -> Html:
    """Escapes whatever is not `Html`; None is nothing."""
    if isinstance(value, Html):
        return value
    return Html("" if value is None else escape(str(value)))


def join(parts: Iterable[Content]) -> Html:
    """One after the other."""
    return Html("".join(map(text, parts)))


def tag(name: str, /, *content: Content, **attributes: object) -> Html:
    """An element: `tag("p", "1 < 2", class_="lead")` -> `<p class="lead">1 &lt; 2</p>`.

    Args:
        name: of the element.
        content: inside it, escaped unless `Html`.
        attributes: `_` becomes `-` (`class_` is `class`); None and False are left out, True has no
            value.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(key if value is True else f'{key}="{escape(str(value))}"')
    opening = " ".join(words)
    if name in _VOID:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{join(content)}</{name}>")


def prose(words: str) -> Html:
    """Escapes a sentence; what stands between backticks becomes `<code>`."""
    parts = words.split("`")
    if len(parts) % 2 == 0:  # an odd backtick belongs to the text
        return text(words)
    return join(tag("code", part) if i % 2 else part for i, part in enumerate(parts))
