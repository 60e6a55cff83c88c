"""What every request passes: the token, the headers of safety, the counts."""

from __future__ import annotations

import hmac
import logging
import time
import traceback

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detrkit.serving.refusals import GONE, Refused
from detrkit.serving.service import Service

log = logging.getLogger("detrkit")

#: Open to everybody: the page, which asks for the token itself, and the probe.
PUBLIC = frozenset({"/", "/demo.css", "/demo.js", "/health"})

#: Paths that are counted by name; all others are `other`, however many a scanner thinks of.
KNOWN = PUBLIC | {"/detect", "/detect/batch", "/info", "/metrics", "/openapi.json"}

#: Paths of which the duration is measured.
TIMED = frozenset({"/detect", "/detect/batch"})

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
}


class Guard:
    """ASGI middleware.

    Args:
        app: what it guards.
        service: counts; its settings name the token.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        token = service.settings.token
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), None

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        path = scope["path"] if scope["path"] in KNOWN else "other"
        try:
            if path in PUBLIC or self._knows_token(Headers(scope=scope)):
                await self.app(scope, receive, observed)
            else:
                refusal = Refused(401, "this needs a token", hint="Authorization: Bearer TOKEN")
                answer = JSONResponse(refusal.content(), 401, {"WWW-Authenticate": "Bearer"})
                await answer(scope, receive, observed)
        except Exception as error:
            log.error("%s: %s: %s", path, type(error).__name__, error)
            log.debug("%s", traceback.format_exc())
            if status is None:
                await JSONResponse({"detail": "a bug in detrkit"}, 500)(scope, receive, observed)
        finally:
            seconds = time.perf_counter() - started
            self.service.requests.add(path, str(status or GONE))
            if path in TIMED:
                self.service.seconds.observe(seconds)
            log.debug("%s %s %s %.0f ms", scope["method"], path, status, 1000 * seconds)

    def _knows_token(self, headers: Headers) -> bool:
        if self._expected is None:
            return True
        brought = headers.get("authorization", "").encode("latin-1")
        return hmac.compare_digest(brought, self._expected)
