"""What a service listens to and what it puts up with."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass

from detrkit.errors import UsageError

#: Bytes of uploads and decoded pictures that are held at a time, at least.
MEMORY = 2 << 30


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one service.

    Attributes:
        host, port: where it listens; port 0: any that is free.
        token: what clients must bring as `Authorization: Bearer TOKEN`; None: nothing.
        max_bytes: of a request's body.
        max_pixels: of one picture, decoded.
        timeout: seconds from the first byte of a request to its answer.
        batch: images per forward pass, at most.
        batch_wait: seconds that an image waits for others that are on their way.
        workers: forward passes at a time.
        queue: images that wait for the model, at most; also images of one request.
        conf: lowest score where a request names none.
        origins: pages of other sites that may ask, e.g. "https://example.org".

    Raises:
        UsageError: one of them makes no sense.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    timeout: float = 30.0
    batch: int = 8
    batch_wait: float = 0.005
    workers: int = 1
    queue: int = 64
    conf: float = 0.3
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "batch", "workers", "queue"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (0 < self.timeout < math.inf and 0 <= self.batch_wait < math.inf):
            raise UsageError("timeout must be positive and batch_wait not negative")
        if self.token is not None and (not self.token.isascii() or not self.token.isprintable()):
            raise UsageError("a token may only hold printable ASCII characters")
        if (self.token is not None and self.token != self.token.strip()) or self.token == "":
            raise UsageError("a token must not be empty, nor begin or end with a space")

    @property
    def memory(self) -> int:
        """Bytes of uploads and decoded pictures that are held at a time."""
        return max(MEMORY, 2 * (self.max_bytes + 3 * self.max_pixels))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
