"""Opens a page in Chromium and says what the browser complains about."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str:
    """The program; skips where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is installed")
    return found


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Chromium without a window."""
    command = [chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    return subprocess.run(
        [*command, *arguments],
        check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=120,
    )  # fmt: skip


def opened(page: Path) -> tuple[str, list[str]]:
    """The document after its scripts ran, and the lines of the console."""
    done = run("--enable-logging=stderr", "--v=0", "--dump-dom", page.absolute().as_uri())
    return done.stdout, re.findall(r".*CONSOLE.*", done.stderr)


def printed(page: Path, to: Path) -> bytes:
    """The page as PDF."""
    run("--no-pdf-header-footer", f"--print-to-pdf={to}", page.absolute().as_uri())
    return to.read_bytes()


def with_script(page: Path, script: str) -> Path:
    """A copy of a page that runs a script at the end; its pictures are loaded before `load`."""
    copy = page.with_name(f"scripted-{page.name}")
    text = page.read_text(encoding="utf-8").replace(' loading="lazy"', "")
    end = "</body>"
    assert text.count(end) == 1
    copy.write_text(text.replace(end, f"<script>{script}</script>{end}"), encoding="utf-8")
    return copy
