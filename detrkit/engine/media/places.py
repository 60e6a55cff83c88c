"""Where frames come from that are in no file of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Camera:
    """A camera of this machine, by its number."""

    number: int

    def __str__(self) -> str:
        return f"camera {self.number}"


@dataclass(frozen=True)
class Address:
    """A stream, or a video on a server."""

    url: str

    def __str__(self) -> str:
        """Without user and password."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
