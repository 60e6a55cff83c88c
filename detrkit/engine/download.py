"""Weights by URL: downloaded once, into the user's cache."""

from __future__ import annotations

import hashlib
import logging
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO
from urllib.parse import urlparse

from detrkit.data.cache import cache_dir
from detrkit.engine.files import write_atomically
from detrkit.errors import WeightsError

log = logging.getLogger("detrkit")

_CHUNK = 1 << 20


def is_url(text: str) -> bool:
    """Whether `text` is to be downloaded."""
    return urlparse(text).scheme in ("http", "https", "file")


def fetch(url: str, sha256: str | None = None, *, timeout: float = 30.0) -> Path:
    """The local copy of `url`, downloaded if there is none.

    Args:
        url: http, https or file.
        sha256: first digits of the expected digest; checked after a download.
        timeout: seconds without an answer.

    Raises:
        WeightsError: it cannot be downloaded, or is not what was expected.
    """
    name = Path(urlparse(url).path).name or "weights.pth"
    place = cache_dir() / "weights" / hashlib.sha256(url.encode()).hexdigest()[:12] / name
    if place.is_file():
        return place
    log.info("downloading %s", url)
    place.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()

    def copy(file: IO[bytes]) -> None:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            expected, done = int(response.headers.get("Content-Length") or 0), 0
            while chunk := response.read(_CHUNK):
                digest.update(chunk)
                done += file.write(chunk)
        if expected and done != expected:
            raise WeightsError(f"{url} broke off after {done} of {expected} bytes")
        if sha256 and not digest.hexdigest().startswith(sha256):
            raise WeightsError(f"{url} is not the expected file: SHA-256 {digest.hexdigest()}")

    try:
        write_atomically(place, copy)
    except WeightsError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        reason = cause.reason if isinstance(cause, urllib.error.URLError) else cause
        raise WeightsError(
            f"cannot download {url}: {reason}",
            hint=f"download it by hand and give the file, or put it at {place}",
        ) from error
    return place
