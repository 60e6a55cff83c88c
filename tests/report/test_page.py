"""Pages: escaped whatever enters, self-contained, well formed."""

from __future__ import annotations

import base64
import io
import math
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detrkit.report import (
    Cell,
    Column,
    Html,
    Page,
    Thumbnail,
    bars,
    details,
    figures,
    gallery,
    heat_map,
    histogram,
    join,
    jpeg_uri,
    key,
    lines,
    link,
    listing,
    matrix,
    notices,
    prose,
    relative_url,
    table,
    tag,
    tiles,
)
from tests.report.parsing import check, check_accessible

NASTY = "<script>alert('1')</script>\"&<b>猫 café"


def test_tag() -> None:
    assert tag("p", "1 < 2", class_="a", aria_label='"x"', hidden=True, title=None) == (
        '<p class="a" aria-label="&quot;x&quot;" hidden>1 &lt; 2</p>'
    )
    assert tag("br") == "<br>"
    assert join(["<", Html("<i>"), None, 3]) == "&lt;<i>3"


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_text_never_becomes_markup(words: str) -> None:
    made = tag("p", words, title=words)
    assert made.count("<") == made.count(">") == 2
    assert prose(words).replace("<code>", "").replace("</code>", "").count("<") == 0


def test_prose() -> None:
    assert prose("the `<b>` class") == "the <code>&lt;b&gt;</code> class"
    assert prose("a ` alone <") == "a ` alone &lt;"


def everything(name: str) -> Page:
    page = Page(name, name)
    columns = [Column(name, help=name), Column("n", numeric=True)]
    rows = [(name, 3), (Html("<i>x</i>"), Cell(name, 2.0)), ("y", 0.5), ("z", math.nan)] * 5
    page.add(name, table(columns, rows, caption=name), lead=name)
    page.add(name, tiles([(name, name, name)]), notices([("hint", name, prose(name), name)]))
    series = {name: [3, 0, 2], "b": [0, 1, 1]}
    page.add(
        "Charts",
        figures(
            [
                (bars([name, "x", "y"], series, title=name, unit=name), name),
                (histogram([name, "1", "2"], series, title=name, axis=name, marks={1: name}), name),
                (heat_map(np.eye(3), title=name, x_axis=name, y_axis=name, x_ticks=[(1, name)],
                          y_ticks=[(0, name)]), name),
                (matrix([name, "b"], np.array([[1, 0.5], [0, 1]]), title=name,
                        columns=["a", name]), name),
                (lines([0, 0.5, 1], {name: np.array([0, 1, 0.5])}, title=name, x_axis=name,
                       y_axis=name, thin={name: np.zeros(3)}, mark=(0.7, name)), name),
            ]
        ),
    )  # fmt: skip
    picture = jpeg_uri(Image.new("RGB", (8, 8)))
    page.add("Pictures", gallery([Thumbnail(picture, name, name), Thumbnail("", name, name)]))
    page.add("More", details(name, tag("p", name)), listing(name, name), key([((1, 2, 3), name)]))
    return page


@pytest.mark.parametrize("name", [NASTY, "plain", "猫\u202e{}%s\\", "`", "{a}"])
def test_a_page_with_everything(name: str) -> None:
    page = check(everything(name).render())
    check_accessible(page)
    assert page.tags.count("table") == 1
    assert page.tags.count("svg") == 5
    assert page.tags.count("section") == 5
    assert " ".join(name.split()) in page.text
    assert "i" in page.tags  # what is meant as markup stays markup
    assert "b" not in page.tags


def test_empty_parts_leave_nothing_behind() -> None:
    page = Page("t")
    page.add("Table", table([Column("a")], []))
    page.add("Gallery", gallery([]))
    page.add("Bars", bars([], {"a": []}, title=""))
    page.add("Histogram", histogram(["1"], {"a": [0]}, title="", axis=""))
    page.add("Map", heat_map(np.zeros((2, 2)), title="", x_axis="", y_axis=""))
    page.add("Matrix", matrix([], np.zeros((0, 0)), title=""))
    assert "section" not in check(page.render()).tags


def test_cells_say_what_they_sort_by() -> None:
    html = table([Column("a"), Column("b", numeric=True)], [("x", 12345), ("y", Cell("5 %", 0.05))])
    assert 'data-key="12345">12,345<' in html
    assert 'data-key="0.05">5 %<' in html
    assert table([Column("a")], [(math.nan,)]).count("–") == 1


def test_undecodable_names_can_be_written() -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    assert b"caf?.jpg" in everything(name).encode()


def test_pictures_that_lead_somewhere() -> None:
    picture = jpeg_uri(Image.new("RGB", (8, 8)))
    page = Page("t")
    page.add("Pictures", gallery([Thumbnail(uri, "c", "a", "b.jpg") for uri in (picture, "")]))
    page.add("Link", link("<here>", "b.jpg"))
    parsed = check(page.render(), links=True)
    check_accessible(parsed)
    assert [v for tag_, k, v in parsed.attributes if (tag_, k, v[0]) == ("a", "href", "b")] == (
        ["b.jpg"] * 3
    )
    with pytest.raises(AssertionError):
        check(page.render())


def test_addresses_of_files(tmp_path: Path) -> None:
    name = "a #1 50%?<ä>.jpg"
    address = relative_url(str(tmp_path / "images" / name), tmp_path / "runs" / "1")
    assert address.startswith("../../images/a%20%231%2050%25%3F")
    assert unquote(address) == f"../../images/{name}"
    undecodable = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    assert relative_url(str(tmp_path / undecodable), tmp_path) == "caf%E9.jpg"


@given(st.lists(st.floats(-0.5, 1.5), min_size=2, max_size=9))
def test_curves_stay_inside_their_axes(values: list[float]) -> None:
    x = np.linspace(0, 1, len(values)).tolist()
    chart = lines(x, {"a": np.array(values)}, title="t", x_axis="x", y_axis="y")
    (path,) = re.findall(r'd="M([\d. ]+)"', chart)
    points = np.array(path.split(), float).reshape(-1, 2)
    assert len(points) == len(values)
    assert (points[:, 0] >= 44).all()
    assert (points[:, 0] <= 548).all()
    assert (points[:, 1] >= 26).all()
    assert (points[:, 1] <= 286).all()


def test_jpeg_uri() -> None:
    uri = jpeg_uri(Image.new("L", (5, 4), 200))
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (5, 4)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=9))
def test_histogram_shows_every_bin_that_holds_something(counts: list[int]) -> None:
    chart = histogram([str(i) for i in range(len(counts))], {"a": counts}, title="t", axis="x")
    assert chart.count('class="s0"') == sum(count > 0 for count in counts)


@given(st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=1, max_size=5))
def test_heat_map_shows_every_cell_that_holds_something(rows: list[list[int]]) -> None:
    chart = heat_map(np.array(rows), title="t", x_axis="x", y_axis="y")
    assert chart.count("M") == np.count_nonzero(rows)
