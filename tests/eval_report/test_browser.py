"""The page in Chromium: no complaints, and what a reader can do with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.report.browser import opened, printed, with_script

Written = tuple[Path, str, dict[str, Any]]


def page_of(written: Written) -> Path:
    return written[0] / "out" / "report.html"


def test_no_console_errors(written: Written) -> None:
    document, complaints = opened(page_of(written))
    assert complaints == []
    assert "Labels to check" in document


def test_complaints_are_heard(written: Written) -> None:
    """The test above can fail: a script that throws, and one that the page's policy forbids."""
    throws = with_script(page_of(written), "throw new Error('planted')")
    assert any("planted" in line for line in opened(throws)[1])
    fetches = with_script(page_of(written), "fetch('https://example.org').catch(() => {})")
    assert any("Content Security Policy" in line for line in opened(fetches)[1])


def test_tables_sort_and_pictures_decode(written: Written) -> None:
    script = """
      const table = [...document.querySelectorAll("table.sortable")]
        .find((one) => one.caption.textContent === "Classes");
      const column = [...table.tHead.rows[0].cells].findIndex((c) => c.textContent === "missed");
      table.tHead.rows[0].cells[column].querySelector("button").click();
      const sorted = [...table.tBodies[0].rows].map((r) => r.cells[column].textContent).join();
      dispatchEvent(new Event("beforeprint"));
      const left = document.querySelectorAll("details:not([open])").length;
      dispatchEvent(new Event("afterprint"));
      const shut = document.querySelectorAll("details:not([open])").length;
      addEventListener("load", () => {
        const pictures = [...document.images];
        const wide = pictures.every((one) => one.naturalWidth > 0);
        document.title = [sorted, left, shut > 0, pictures.length, wide].join(" ");
      });
    """
    document, complaints = opened(with_script(page_of(written), script))
    assert complaints == []
    title = re.search(r"<title>(.*?)</title>", document)
    assert title is not None
    assert title[1] == "3,0,0 0 true 8 true"


def test_it_prints(written: Written, tmp_path: Path) -> None:
    content = printed(page_of(written), tmp_path / "report.pdf")
    assert content.startswith(b"%PDF")
    assert len(content) > 20_000
