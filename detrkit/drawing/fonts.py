"""A font that can write the text at hand, whatever its script.

Searched in this order: the file that the environment variable `DETRKIT_FONT` names; well-known
sans-serif fonts of the system (for Chinese, Japanese and Korean text those of its language);
every other font of the system; fonts inside installed Python packages (`noto-cjk-sans-otc`, which
the extra `detrkit[fonts]` installs, and matplotlib); Pillow's own, which has ASCII only.

Where no font has all characters, one warning says so and callers write something else instead
(`can_write` tells them).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ImageFont

log = logging.getLogger("detrkit.drawing")

#: Beginnings of file names, lower case without spaces, in the order of preference. The first
#: ones write Latin, Greek and Cyrillic; then come those for Chinese, Japanese and Korean.
_KNOWN = (
    "dejavusans.ttf", "notosans-regular", "segoeui.ttf", "arial.ttf", "helvetica.ttc",
    "liberationsans-regular", "roboto-regular", "opensans-regular", "ubuntu-r", "cantarell",
    "notosanscjk-regular", "notosanscjksc-regular", "sourcehansans", "notosanssc", "pingfang",
    "msyh.", "hiraginosansgb", "stheiti", "simhei", "wqy-microhei", "wqy-zenhei", "simsun",
    "yugothm", "yugothr", "meiryo.", "msgothic", "malgun.", "applesdgothicneo", "nanumgothic.",
    "droidsansfallback", "arialunicode",
)  # fmt: skip
_UNLIKELY = ("bold", "italic", "oblique", "mono", "serif", "condensed", "light", "thin", "emoji")
#: Fonts that draw the same sign for every character, as if they had them all.
_PLACEHOLDERS = ("lastresort", "adobeblank", "unicodebmpfallback")
_PACKAGES = (
    "noto_cjk_sans_otc", "noto_cjk_sans_sc_regular", "noto_cjk_sans_tc_regular",
    "noto_cjk_sans_jp_regular", "noto_cjk_sans_kr_regular", "matplotlib",
)  # fmt: skip
#: Position of a language's shapes inside the pan-CJK collections.
_COLLECTIONS = ("notosanscjk", "notoserifcjk", "sourcehansans")
_JAPANESE, _KOREAN, _CHINESE = 0, 1, 2
_NO_CHARACTER = "\U0010fffe"  # never assigned: every font draws its "missing" sign
_PROBE_SIZE = 16
_warned: set[str] = set()  # what the one warning was about


class Face(NamedTuple):
    """A font file and the position inside it; no path is Pillow's built-in font."""

    path: str
    number: int = 0

    def load(self, size: int) -> ImageFont.FreeTypeFont:
        """The font at a size in pixels.

        Raises:
            OSError: the file is no scalable font.
        """
        if not self.path:
            font = ImageFont.load_default(size)
            if not isinstance(font, ImageFont.FreeTypeFont):
                raise OSError("Pillow was built without FreeType")
            return font
        return ImageFont.truetype(self.path, size, index=self.number)


def clean(text: str) -> str:
    """One line of composed characters: fonts draw é better than e and an accent."""
    printable = "".join(c if c.isprintable() else " " for c in unicodedata.normalize("NFC", text))
    return " ".join(printable.split())


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The font that writes most of `text`, `size` pixels high."""
    return _loaded(_face_for(frozenset(text)), size)


def missing_characters(text: str) -> str:
    """Those of `text` that the best font lacks, sorted; empty if one font has all."""
    characters = frozenset(text)
    return "".join(sorted(_missing(_face_for(characters), characters)))


def can_write(text: str) -> bool:
    """Whether one font has every character of `text`; says so once if none has."""
    missing = missing_characters(text)
    if missing:
        _warn_once(missing)
    return not missing


def matplotlib_fonts(texts: Iterable[str]) -> dict[Any, Any]:
    """Settings of matplotlib by which it writes texts that its own font lacks the signs of.

    Args:
        texts: all that one figure will write.

    Returns:
        For `matplotlib.rc_context`; empty where its own font will do.
    """
    text = "".join(texts)
    if text.isascii():
        return {}
    from matplotlib import font_manager

    path = font_for(text, _PROBE_SIZE).path
    if not isinstance(path, str) or not path:
        return {}
    font_manager.fontManager.addfont(path)
    family = font_manager.FontProperties(fname=path).get_name()
    return {"font.family": ["DejaVu Sans", family]}


def forget_fonts() -> None:
    """Searches again on the next use, e.g. after installing a font."""
    for cached in (_face_for, _files, _loaded, _has):
        cached.cache_clear()
    _warned.clear()


def _warn_once(missing: str) -> None:
    if _warned:
        return
    _warned.add(missing)
    log.warning(
        "no installed font has the characters %s; labels show class numbers instead. "
        "`pip install 'detrkit[fonts]'` brings a font for Chinese, Japanese and Korean; "
        "DETRKIT_FONT=/path/to/font.ttf names one of yours",
        " ".join(missing[:8]),
    )


@lru_cache(maxsize=4096)
def _face_for(characters: frozenset[str]) -> Face:
    best, fewest = Face(""), len(characters) + 1
    for path in (*_files(), ""):
        face = Face(path, _shapes(path, characters))
        missing = len(_missing(face, characters))
        if missing < fewest:
            best, fewest = face, missing
            if not missing:
                break
    return best


def _shapes(path: str, characters: frozenset[str]) -> int:
    """Han characters look different per language; the text's other letters tell which it is."""
    if not _plain_name(path).startswith(_COLLECTIONS) or not path.lower().endswith(".ttc"):
        return 0
    if any("\u3040" <= c <= "\u30ff" for c in characters):
        return _JAPANESE
    if any("\uac00" <= c <= "\ud7af" for c in characters):
        return _KOREAN
    return _CHINESE


def _missing(face: Face, characters: frozenset[str]) -> frozenset[str]:
    return frozenset(c for c in characters if not c.isspace() and not _has(face, c))


@lru_cache(maxsize=65536)
def _has(face: Face, character: str) -> bool:
    """Whether the glyph differs from the font's sign for missing characters."""
    try:
        font = _loaded(face, _PROBE_SIZE)
        glyph, none = font.getmask(character), font.getmask(_NO_CHARACTER)
    except (OSError, ValueError):  # bitmap-only, damaged or unreadable fonts
        return False
    return glyph.size != none.size or bytes(glyph) != bytes(none)


@lru_cache(maxsize=64)
def _loaded(face: Face, size: int) -> ImageFont.FreeTypeFont:
    return face.load(size)


@cache
def _files() -> tuple[str, ...]:
    """Every font file, best first."""
    own = os.environ.get("DETRKIT_FONT")
    system = sorted(
        {str(file) for folder in _folders() for file in _fonts_below(folder)}, key=_rank
    )
    packaged = [str(f) for name in _PACKAGES for f in sorted(_fonts_of_package(name), key=_rank)]
    return (*([own] if own else []), *system, *packaged)


def _rank(path: object) -> tuple[int, int, str]:
    name = _plain_name(str(path))
    known = next((i for i, start in enumerate(_KNOWN) if name.startswith(start)), len(_KNOWN))
    return known, sum(word in name for word in _UNLIKELY), name


def _plain_name(path: str) -> str:
    return Path(path).name.lower().replace(" ", "")


def _folders() -> Iterator[Path]:
    home = Path.home()
    if sys.platform == "win32":
        yield Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"
        yield Path(os.environ.get("LOCALAPPDATA", str(home))) / "Microsoft/Windows/Fonts"
    elif sys.platform == "darwin":
        yield from (home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts"))
    else:
        shared = os.environ.get("XDG_DATA_DIRS", "/usr/local/share:/usr/share")
        yield from (home / ".fonts", home / ".local/share/fonts")
        yield from (Path(folder) / "fonts" for folder in shared.split(":") if folder)


def _fonts_below(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):  # leaves out what cannot be read
        for name in names:
            plain = _plain_name(name)
            if plain.endswith((".ttf", ".ttc", ".otf", ".otc")) and not plain.startswith(
                _PLACEHOLDERS
            ):
                yield Path(root, name)


def _fonts_of_package(name: str) -> list[Path]:
    """Fonts inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec else None
    return [font for place in places or () for font in _fonts_below(Path(place))]
