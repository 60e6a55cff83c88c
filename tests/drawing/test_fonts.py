"""Fonts: the search, the choice by script, the fallback and its one warning."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
from PIL import ImageFont

from detrkit.drawing import fonts


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    fonts.forget_fonts()
    yield
    fonts.forget_fonts()


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without fonts and without packages that bring some."""
    monkeypatch.setattr(fonts, "_folders", lambda: iter(()))
    monkeypatch.setattr(fonts, "_PACKAGES", ())
    monkeypatch.delenv("DETRKIT_FONT", raising=False)


def test_ascii_always_works(no_fonts: None, caplog: pytest.LogCaptureFixture) -> None:
    assert fonts.can_write("person 0.87")
    assert fonts.font_for("person", 20).getlength("person") > 20
    assert not caplog.records


def test_one_warning_for_what_no_font_has(no_fonts: None, caplog: pytest.LogCaptureFixture) -> None:
    assert not fonts.can_write("猫")
    assert not fonts.can_write("犬")
    (record,) = caplog.records
    assert "猫" in record.getMessage()
    assert "detrkit[fonts]" in record.getMessage()
    assert fonts.font_for("猫", 20) is not None  # still draws something


def test_own_font_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSerif.ttf")
    own = str(shutil.copy(drawn, tmp_path / "own.ttf"))
    assert fonts.font_for("A", 12).path != own
    monkeypatch.setenv("DETRKIT_FONT", own)
    fonts.forget_fonts()
    assert fonts.font_for("A", 12).path == own


def test_broken_font_files_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_fonts: None
) -> None:
    (tmp_path / "arial.ttf").write_bytes(b"not a font")
    monkeypatch.setattr(fonts, "_folders", lambda: iter((tmp_path, tmp_path / "missing")))
    assert fonts._files() == (str(tmp_path / "arial.ttf"),)
    assert fonts.can_write("cat")


def test_fonts_of_placeholders_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_fonts: None
) -> None:
    """LastResort, which comes with matplotlib, "has" every character, as an empty frame."""
    for name in ("LastResortHE-Regular.ttf", "AdobeBlank.otf", "Real.ttf", "readme.txt"):
        (tmp_path / name).touch()
    monkeypatch.setattr(fonts, "_folders", lambda: iter((tmp_path,)))
    assert fonts._files() == (str(tmp_path / "Real.ttf"),)


def test_fonts_inside_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_fonts: None
) -> None:
    (tmp_path / "fonts_for_test" / "data").mkdir(parents=True)
    font = tmp_path / "fonts_for_test" / "data" / "Some.otf"
    font.touch()
    (tmp_path / "fonts_for_test" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(fonts, "_PACKAGES", ("fonts_for_test", "not_installed"))
    assert fonts._files() == (str(font),)


def test_plain_sans_before_bold_and_serif() -> None:
    names = ["/a/NotoSerif-Bold.ttf", "/a/Zed-Bold.ttf", "/a/Zed.ttf", "/a/DejaVuSans.ttf"]
    ranked = sorted(names, key=fonts._rank)
    assert ranked == ["/a/DejaVuSans.ttf", "/a/Zed.ttf", "/a/Zed-Bold.ttf", "/a/NotoSerif-Bold.ttf"]


def test_language_decides_the_shapes_of_han_characters() -> None:
    collection = "/x/NotoSansCJK-Regular.ttc"
    assert fonts._shapes(collection, frozenset("猫")) == fonts._CHINESE
    assert fonts._shapes(collection, frozenset("猫の")) == fonts._JAPANESE
    assert fonts._shapes(collection, frozenset("고양이")) == fonts._KOREAN
    assert fonts._shapes("/x/DejaVuSans.ttf", frozenset("猫")) == 0


def test_cjk_font_when_installed() -> None:
    if not any("cjk" in f.lower() or "wqy" in f.lower() for f in fonts._files()):
        pytest.skip("no font for Chinese, Japanese and Korean here")
    for text in ("白血球", "кот 猫", "혈소판", "ねこ"):
        assert fonts.can_write(text), text
        assert isinstance(fonts.font_for(text, 24), ImageFont.FreeTypeFont)


def test_clean_makes_one_composed_line() -> None:
    assert fonts.clean("cafe\u0301\n 100%\t\x00") == "café 100%"
