"""PyAV, which holds FFmpeg: an optional dependency, imported when a video is there."""

from __future__ import annotations

from typing import Any

from detrkit.errors import MissingExtraError


def import_av() -> Any:
    """The package `av`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video", "reading and writing videos") from error
    return av


def reason(error: BaseException) -> str:
    """What FFmpeg says, on one line."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]
