"""Figures: their size, their letters, and that equal ones are equal files."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image

from detrkit.errors import DetrkitError, UsageError
from detrkit.explain.figures.style import drawing, new_figure, parse_width, save


def drawn(title: str = "person") -> Figure:
    with drawing(title):
        figure = new_figure("column", 2)
        axes = figure.add_subplot()
        axes.plot([0, 1, 2], [1, 3, 2], label=title)
        axes.set_title(title)
        axes.legend()
    return figure


def test_widths() -> None:
    assert (parse_width("column"), parse_width("page")) == (3.35, 6.9)
    assert parse_width("5.5") == parse_width(5.5) == 5.5
    for wrong in ("wide", "0", "-1", "nan", "600"):
        with pytest.raises(UsageError, match="column"):
            parse_width(wrong)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_equal_figures_are_equal_files(kind: str, tmp_path: Path) -> None:
    first, second = (save(drawn(), tmp_path / f"{i}.{kind}", dpi=50) for i in range(2))
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"0.{kind}", f"1.{kind}"]


def test_size_and_text(tmp_path: Path) -> None:
    with Image.open(save(drawn(), tmp_path / "a.png", dpi=100)) as picture:
        assert picture.size == (335, 200)
    text = save(drawn("person"), tmp_path / "a.svg").read_text(encoding="utf-8")
    assert ">person</text>" in text
    assert "<dc:date>" not in text


def test_names_in_any_script(tmp_path: Path) -> None:
    text = save(drawn("猫"), tmp_path / "a.svg").read_text(encoding="utf-8")
    assert ">猫</text>" in text
    save(drawn("猫 \U0010fffe"), tmp_path / "b.pdf")


def test_the_users_settings_stay(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    save(drawn(), tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="png, svg, pdf"):
        save(drawn(), tmp_path / "a.bmp")
    with pytest.raises(DetrkitError, match="no folder"):
        save(drawn(), tmp_path / "missing" / "a.png")
