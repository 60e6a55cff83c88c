"""Weights by URL and from the Hugging Face hub: downloaded once, into the usual caches.

https://host/name-3f2a9c61.pth      torch hub's cache, shared with every program that uses it;
                                    the digits in the name are checked against the content;
                                    the authors' published weights are kept there as well
https://host/best.pth#sha256=…      detrkit's cache, by URL; checked if digits are given
hf://organisation/name              the hub's cache; the whole model
hf://organisation/name/file.pth     one file of it; `@revision` may follow the name
"""

from __future__ import annotations

import hashlib
import logging
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO
from urllib.parse import parse_qs, unquote, urldefrag, urlparse

import torch

from detrkit.config.published import published
from detrkit.data.cache import cache_dir
from detrkit.errors import DetrkitError, MissingExtraError, WeightsError
from detrkit.files import write_atomically

log = logging.getLogger("detrkit")

_CHUNK = 1 << 20

#: torch hub's convention: the first digits of the SHA-256 before the ending.
_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")

#: Files that make a model of the hub.
_MODEL_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


def is_url(text: str) -> bool:
    """Whether `text` is to be downloaded."""
    return urlparse(text).scheme in ("http", "https", "file", "hf")


def locate(source: str | Path) -> Path:
    """The local file or folder behind a path or URL; downloads it if need be.

    Raises:
        WeightsError: it cannot be downloaded, or is not what was expected.
    """
    text = str(source)
    if text.startswith("hf://"):
        return fetch_from_hub(text)
    if not is_url(text):
        return Path(source).expanduser()
    return fetch(text, shared=urldefrag(text).url in _published_urls())


def _published_urls() -> set[str]:
    """Addresses of the authors' weights: their names are known, and no two are equal."""
    return {weights.url for model in published().values() for weights in model.weights}


def fetch(
    url: str, sha256: str | None = None, *, timeout: float = 30.0, shared: bool = False
) -> Path:
    """The local copy of `url`, downloaded if there is none.

    Args:
        url: http, https or file; may end with `#sha256=DIGITS`.
        sha256: first digits of the expected digest; checked after a download and, for a copy
            in torch hub's cache, before it is used.
        timeout: seconds without an answer.
        shared: the file's name is known to mean one file only, as those of backbones do: it is
            kept in torch hub's cache even without a digest in the name.

    Raises:
        WeightsError: it cannot be downloaded, or is not what was expected.
    """
    place = place_of(url, shared=shared)
    in_name = _DIGEST_IN_NAME.search(place.name)
    url, given = _without_digest(url)
    expected = sha256 or given or (in_name[1] if in_name else None)
    if place.is_file():
        _check(place, expected)
        return place
    log.info("downloading %s", url)
    _download(url, place, expected, timeout)
    return place


def place_of(url: str, *, shared: bool = False) -> Path:
    """Where `fetch` keeps its copy of `url`; it may not be there yet."""
    url, _ = _without_digest(url)
    name = unquote(Path(urlparse(url).path).name) or "weights.pth"
    if shared or _DIGEST_IN_NAME.search(name):
        return Path(torch.hub.get_dir()) / "checkpoints" / name
    return cache_dir() / "weights" / hashlib.sha256(url.encode()).hexdigest()[:12] / name


def _without_digest(url: str) -> tuple[str, str | None]:
    """`https://…/w.pth#sha256=ab12` -> the URL, "ab12"."""
    plain, fragment = urldefrag(url)
    digits = parse_qs(fragment).get("sha256", [None])[0]
    if digits is not None and not re.fullmatch(r"[0-9a-fA-F]{8,64}", digits):
        raise WeightsError(f"{url}: `#sha256=` wants 8 to 64 hexadecimal digits")
    return plain, digits.lower() if digits else None


def _download(url: str, place: Path, expected: str | None, timeout: float) -> None:
    digest = hashlib.sha256()

    def copy(file: IO[bytes]) -> None:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            length, done = int(response.headers.get("Content-Length") or 0), 0
            while chunk := response.read(_CHUNK):
                digest.update(chunk)
                done += file.write(chunk)
        if length and done != length:
            raise WeightsError(f"{url} broke off after {done} of {length} bytes")
        if expected and not digest.hexdigest().startswith(expected):
            raise WeightsError(
                f"{url} is not the expected file: its SHA-256 is {digest.hexdigest()}, "
                f"expected {expected}…"
            )

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, copy)
    except WeightsError:
        raise
    except (OSError, DetrkitError, ValueError) as error:
        cause = error.__cause__ or error
        reason = cause.reason if isinstance(cause, urllib.error.URLError) else cause
        if isinstance(cause, urllib.error.HTTPError):
            cause.close()  # it holds the connection
        raise WeightsError(
            f"cannot download {url}: {reason}",
            hint=f"download it by hand and put it at {place}, or give the file itself",
        ) from error


def _check(place: Path, expected: str | None) -> None:
    if expected is None:
        return
    digest = hashlib.sha256()
    with place.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if not digest.hexdigest().startswith(expected):
        raise WeightsError(
            f"{place} is not the expected file: its SHA-256 is {digest.hexdigest()}, "
            f"expected {expected}…",
            hint="remove it and try again; it may be the rest of an interrupted download",
        )


def fetch_from_hub(url: str) -> Path:
    """A file, or the folder of a model, of the Hugging Face hub, from its cache or downloaded.

    `HF_HOME`, `HF_HUB_OFFLINE`, `HF_ENDPOINT` and tokens work as for every program of the hub,
    which also checks what it downloads.

    Args:
        url: `hf://organisation/name[@revision][/file]`.

    Raises:
        WeightsError: no such model or file, or not reachable; says where the hub's cache is.
        MissingExtraError: huggingface-hub is not installed.
    """
    found = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?", url.rstrip("/"))
    if not found:
        raise WeightsError(
            f"{url} names no model of the hub", hint="hf://organisation/name, or …/name/file.pth"
        )
    repository, revision, file = found.groups()
    try:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
    except ImportError:
        raise MissingExtraError("huggingface-hub", "hf", f"loading {url}") from None
    wanted = [file] if file else list(_MODEL_FILES)
    paths: list[Path] = []
    for name in wanted:
        try:
            paths.append(Path(hf_hub_download(repository, name, revision=revision)))
        except EntryNotFoundError as error:
            if name == "preprocessor_config.json" or (name == "config.json" and not file):
                continue  # not every model has one
            raise _not_from_hub(url, repository, name, error, constants.HF_HUB_CACHE) from error
        except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
            raise _not_from_hub(url, repository, name, error, constants.HF_HUB_CACHE) from error
    return paths[0] if file else paths[-1].parent


def _not_from_hub(
    url: str, repository: str, file: str, error: Exception, cache: str
) -> WeightsError:
    reason = next((line for line in str(error).splitlines() if line.strip()), "")
    reason = reason or type(error).__name__
    folder = f"models--{repository.replace('/', '--')}"
    return WeightsError(
        f"cannot get {file} of {repository} from the Hugging Face hub: {reason}",
        hint=f"without a connection: on another machine, `hf download {repository}`, then copy "
        f"its folder {folder} to {cache}; or give the downloaded folder or file itself"
        + ("" if "/" in url.removeprefix(f"hf://{repository}") else
           f"; a single file is named {url}/FILE"),
    )  # fmt: skip
