"""The routes of a service.

POST /detect         one image -> its detections
POST /detect/batch   a form with several -> theirs, in order
GET  /health         200 when the model has answered, 503 before
GET  /metrics        Prometheus
GET  /info           model, classes, image spec, limits
GET  /openapi.json   all of this for machines
GET  /               a page to try it
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.resources import files
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response

from detrkit import __version__
from detrkit.data.image_bytes import ImageBytes
from detrkit.data.unreadable import max_pixels
from detrkit.errors import UsageError
from detrkit.serving import schema
from detrkit.serving.guard import Guard
from detrkit.serving.memory import Held
from detrkit.serving.metrics import CONTENT_TYPE
from detrkit.serving.refusals import GONE, Refused, because_of
from detrkit.serving.service import Service
from detrkit.serving.uploads import UNNAMED, read_uploads
from detrkit.structures import ClassMap, Detections

T = TypeVar("T")

Format = Literal["detrkit", "coco"]

Conf = Annotated[float | None, Query(ge=0, le=1, allow_inf_nan=False, description="Lowest score.")]
Classes = Annotated[
    list[str] | None,
    Query(description="Only these: names or indices, with commas between or repeated."),
]
MaxDet = Annotated[int, Query(ge=1, le=100_000, description="At most so many per image.")]
Kind = Annotated[
    Format, Query(alias="format", description="`coco`: entries of COCO's result files.")
]
ImageId = Annotated[str | None, Query(max_length=255, description="Comes back in the answer.")]


def build_app(service: Service) -> FastAPI:
    """The ASGI application around a service, which it closes at its end.

    Raises:
        UsageError: the environment sets a limit that is no number.
    """
    max_pixels()
    settings, detector = service.settings, service.detector

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.get_running_loop().run_in_executor(None, service.close)

    app = FastAPI(
        title="detrkit",
        version=__version__,
        description=f"Detections by {service.name}.",
        lifespan=lifespan,
        docs_url=None,  # its page would come from a server of somebody else
        redoc_url=None,
    )
    app.add_middleware(Guard, service=service)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    _answer_refusals(app)
    _add_demo(app)

    async def detections(
        request: Request, most: int, conf: float | None, classes: list[str] | None, max_det: int
    ) -> list[tuple[ImageBytes, Detections | Refused]]:
        """Of all images of a request, in time."""
        until = time.monotonic() + settings.timeout
        wanted = _indices(detector.class_map, classes)
        lowest = settings.conf if conf is None else conf
        with service.memory.held() as held:
            uploads = await _uploaded(request, most, held, until)
            answers = await _computed(request, service.detect(uploads, held), until)
        return [
            (
                upload,
                found
                if isinstance(found, Refused)
                else found.filter(conf=lowest, classes=wanted, max_det=max_det),
            )
            for upload, found in zip(uploads, answers, strict=True)
        ]

    async def _uploaded(request: Request, most: int, held: Held, until: float) -> list[ImageBytes]:
        reading = read_uploads(request, max_bytes=settings.max_bytes, most=most, held=held)
        try:
            return await asyncio.wait_for(reading, until - time.monotonic())
        except asyncio.TimeoutError:
            late = f"the upload took longer than {settings.timeout:g} s"
            raise Refused(408, late, headers={"Connection": "close"}) from None

    @app.post(
        "/detect",
        summary="Detect on one image",
        openapi_extra=schema.ONE_IMAGE,
        responses={200: {"model": schema.ImageJson | list[schema.CocoJson]}, **schema.REFUSALS},
    )
    async def detect(
        request: Request,
        conf: Conf = None,
        classes: Classes = None,
        max_det: MaxDet = 300,
        kind: Kind = "detrkit",
        image_id: ImageId = None,
    ) -> Response:
        ((upload, found),) = await detections(request, 1, conf, classes, max_det)
        if isinstance(found, Refused):
            raise found
        found = replace(found, path=_name(upload), image_id=_number_or_text(image_id))
        return JSONResponse(found.to_coco() if kind == "coco" else found.to_dict())

    @app.post(
        "/detect/batch",
        summary="Detect on several images",
        openapi_extra=schema.SEVERAL_IMAGES,
        responses={200: {"model": schema.BatchJson}, **schema.REFUSALS},
    )
    async def detect_batch(
        request: Request,
        conf: Conf = None,
        classes: Classes = None,
        max_det: MaxDet = 300,
    ) -> Response:
        """A broken image does not harm the others: its entry says what is wrong with it."""
        answers = await detections(request, settings.queue, conf, classes, max_det)
        images = [
            {"image": str(upload), "status": found.status, **found.content()}
            if isinstance(found, Refused)
            else replace(found, path=_name(upload)).to_dict()
            for upload, found in answers
        ]
        return JSONResponse({"images": images})

    @app.head("/health", include_in_schema=False)
    @app.get(
        "/health",
        summary="Whether the model answers",
        responses={code: {"model": schema.HealthJson} for code in (200, 503)},
    )
    async def health() -> Response:
        if service.healthy:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "failing" if service.ready else "starting"}, 503)

    @app.get("/metrics", summary="Counts for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.metrics(), media_type=CONTENT_TYPE)

    @app.get("/info", summary="Model, classes and limits", response_model=schema.InfoJson)
    async def info() -> Response:
        return JSONResponse(_info(service))

    return app


async def _computed(request: Request, work: Coroutine[Any, Any, T], until: float) -> T:
    """What `work` gives, as long as there is time and somebody waits for it.

    Raises:
        Refused: 504, it took too long.
        ClientDisconnect: nobody waits.
    """
    answer = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait(
            {answer, gone},
            timeout=max(until - time.monotonic(), 0),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if answer.done():
            return answer.result()
        if gone.done():
            raise ClientDisconnect
        raise Refused(504, "no answer in time", hint="the service may be busy; try again")
    finally:
        for task in (answer, gone):
            task.cancel()
        await asyncio.wait({answer, gone})  # what waits for the model is out of the queue then


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer_refusals(app: FastAPI) -> None:
    """All that goes wrong is answered by the same kind of JSON object."""

    def answer(refusal: Refused) -> Response:
        return JSONResponse(refusal.content(), refusal.status, refusal.headers)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        wrong = [f"{e['loc'][-1]}: {e['msg'].lower()}" for e in error.errors()]
        return answer(Refused(422, "; ".join(wrong)))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return answer(Refused(error.status_code, str(error.detail), headers=error.headers))

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=GONE)  # is counted; nobody is there to read it


def _add_demo(app: FastAPI) -> None:
    """The page, whose parts all come from here."""
    folder = files("detrkit.serving") / "demo"
    for path, name, kind in (
        ("/", "demo.html", "text/html"),
        ("/demo.css", "demo.css", "text/css"),
        ("/demo.js", "demo.js", "text/javascript"),
    ):
        app.add_api_route(
            path,
            _page((folder / name).read_bytes(), kind),
            include_in_schema=False,
            methods=["GET"],
        )


def _page(content: bytes, kind: str) -> Any:
    async def page() -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return page


def _indices(class_map: ClassMap, classes: Sequence[str] | None) -> list[int] | None:
    """Of classes in a query; a name may hold a comma.

    Raises:
        Refused: one is not known.
    """
    if classes is None:
        return None
    known = class_map.index_of_name
    names = [n for c in classes for n in ([c] if c in known else c.split(","))]
    try:
        return class_map.indices([name.strip() for name in names if name.strip()])
    except UsageError as error:
        raise because_of(error) from error


def _name(upload: ImageBytes) -> str | None:
    return None if upload.name == UNNAMED else upload.name


def _number_or_text(image_id: str | None) -> int | str | None:
    """COCO's ids are numbers, as a rule."""
    if image_id is not None and image_id.isascii() and image_id.isdigit() and len(image_id) < 16:
        return int(image_id)
    return image_id


def _info(service: Service) -> dict[str, Any]:
    settings, detector = service.settings, service.detector
    classes = detector.class_map
    return {
        "detrkit": __version__,
        "model": service.name,
        "device": str(detector.runtime.device),
        "classes": [
            {"name": name, "category_id": category, "color": "#" + bytes(color).hex()}
            for name, category, color in zip(
                classes.names, classes.category_ids, classes.colors, strict=True
            )
        ],
        "image_spec": detector.image_spec.to_dict(),
        "conf": settings.conf,
        "max_bytes": settings.max_bytes,
        "max_pixels": settings.max_pixels,
        "max_images": settings.queue,
        "timeout": settings.timeout,
        "batch": settings.batch,
    }
