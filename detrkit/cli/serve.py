"""`detrkit serve`: a detector as an HTTP service with a page to try it."""

from __future__ import annotations

import logging
from typing import Annotated, Optional

import typer

from detrkit.cli.options import (
    Device,
    Half,
    InputSize,
    JsonOut,
    Provider,
    Threads,
    Weights,
    WeightsConfig,
)

log = logging.getLogger("detrkit")

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045


def serve(
    weights: Weights,
    config: WeightsConfig = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen to; 0.0.0.0: the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    token: Annotated[
        Optional[str],
        typer.Option(
            "--token",
            envvar="DETRKIT_TOKEN",
            metavar="TEXT",
            help="Ask clients for this as `Authorization: Bearer TEXT`; in the variable other "
            "users of the machine do not see it.",
            show_envvar=True,
        ),
    ] = None,
    conf: Annotated[
        float, typer.Option(min=0, max=1, help="Lowest score where a request names none.")
    ] = 0.3,
    batch: Annotated[int, typer.Option(min=1, help="Images per forward pass, at most.")] = 8,
    batch_wait_ms: Annotated[
        float, typer.Option(min=0, help="How long an image waits for others to share a pass.")
    ] = 5.0,
    workers: Annotated[int, typer.Option(min=1, help="Forward passes at a time.")] = 1,
    queue: Annotated[
        int, typer.Option(min=1, help="Images that wait for the model; more get 503.")
    ] = 64,
    timeout: Annotated[float, typer.Option(help="Seconds until a request gets 504.")] = 30.0,
    max_megabytes: Annotated[float, typer.Option(help="Of a request; larger ones get 413.")] = 20.0,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Of a picture; larger ones get 413.")
    ] = 50_000_000,
    cors: Annotated[
        Optional[list[str]],
        typer.Option(
            "--cors", metavar="ORIGIN", help="A page of another site that may ask; repeatable."
        ),
    ] = None,
    half: Half = False,
    provider: Provider = None,
    threads: Threads = None,
    size: InputSize = None,
    device: Device = None,
    json: JsonOut = False,
) -> None:
    """Serve a detector over HTTP, with a page to try it in the browser.

    POST an image to /detect, several to /detect/batch; /health, /metrics
    (Prometheus), /info and /openapi.json tell the rest. Requests that come
    together share a forward pass.

    Ctrl-C and SIGTERM end it when all requests are answered: exit code 0.
    A second one ends it at once: 130.
    """  # fmt: skip
    from pathlib import Path
    from urllib.parse import urlsplit

    from detrkit.api import load
    from detrkit.cli.console import out, print_json
    from detrkit.engine.derive import parse_size
    from detrkit.errors import MissingExtraError
    from detrkit.serving.settings import Settings

    settings = Settings(
        host=host, port=port, token=token, conf=conf, batch=batch, batch_wait=batch_wait_ms / 1000,
        workers=workers, queue=queue, timeout=timeout, max_bytes=int(max_megabytes * 1e6),
        max_pixels=max_pixels, origins=tuple(cors or ()),
    )  # fmt: skip
    try:
        from detrkit.serving import server
    except ModuleNotFoundError as error:
        if (error.name or "detrkit").partition(".")[0] == "detrkit":
            raise
        raise MissingExtraError(error.name or "fastapi", "serve", "`detrkit serve`") from error
    detector = load(
        weights, config=config, device=device, size=parse_size(size) if size else None, half=half,
        provider=provider, threads=threads,
    )  # fmt: skip
    if token is None and not settings.is_loopback:
        log.warning(
            "whoever reaches %s may use this service; --token, or the variable DETRKIT_TOKEN, asks "
            "for a password",
            host,
        )
    name = Path(urlsplit(weights).path).name or weights

    def announce(url: str) -> None:
        device = str(detector.runtime.device)
        if json:
            print_json("serve", {"url": url, "model": name, "device": device})
            out.file.flush()
        else:
            log.info("%s on %s; Ctrl-C ends it", name, device)
            out.print(url, markup=False, soft_wrap=True)
            out.file.flush()

    server.serve(detector, settings, name, announce)
