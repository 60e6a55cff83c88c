"""What is answered instead of detections.

400  no image in the request; a form that cannot be read
401  no token, or a wrong one
408  the upload did not arrive in time
413  too many bytes, pixels or images
415  a Content-Type that is no image
422  an image that cannot be decoded; an unknown class; a parameter out of range
500  the model failed
503  busy: with Retry-After; or not ready
504  no answer in time
"""

from __future__ import annotations

from collections.abc import Mapping

from detrkit.errors import DataError, DetrkitError

#: What is counted for clients that went away; none of them gets it.
GONE = 499


class Refused(Exception):
    """A request gets no detections.

    Args:
        status: of HTTP.
        detail: one line.
        hint: what to do.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = " ".join(detail.split())
        self.hint = hint
        self.headers = dict(headers or {})

    def content(self) -> dict[str, str]:
        """The JSON object of the answer."""
        return {"detail": self.detail, **({"hint": self.hint} if self.hint else {})}


def busy(detail: str) -> Refused:
    """The same request may succeed in a second."""
    return Refused(503, detail, hint="try again in a second", headers={"Retry-After": "1"})


def because_of(error: DetrkitError) -> Refused:
    """A mistake in the request that detrkit found: an image or a class."""
    from detrkit.data.unreadable import TooManyPixels

    if isinstance(error, TooManyPixels):
        return Refused(413, error.message, hint="send a smaller picture")
    return Refused(422, error.message, hint=None if isinstance(error, DataError) else error.hint)
