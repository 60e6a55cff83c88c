"""The JSON of requests and answers, for the OpenAPI description."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class DetectionJson(BaseModel):
    """One object."""

    label: str
    category_id: int | str
    score: float
    box_xyxy: tuple[float, float, float, float]


class ImageJson(BaseModel):
    """One image; `height` and `width` in pixels, as it is shown."""

    image: str | None
    image_id: int | str | None
    height: int
    width: int
    detections: list[DetectionJson]


class CocoJson(BaseModel):
    """One object, as in COCO's result files; `bbox` is [x, y, w, h]."""

    image_id: int | str | None
    category_id: int | str
    bbox: tuple[float, float, float, float]
    score: float


class BrokenJson(BaseModel):
    """An image of several that gets no detections; `status` is what it would get alone."""

    image: str
    status: int
    detail: str
    hint: str | None = None


class BatchJson(BaseModel):
    """One entry for each image, in their order."""

    images: list[ImageJson | BrokenJson]


class RefusalJson(BaseModel):
    """Why there are no detections, in one line."""

    detail: str
    hint: str | None = None


class ClassJson(BaseModel):
    """A class and the colour that it is drawn in."""

    name: str
    category_id: int | str
    color: str


class InfoJson(BaseModel):
    """What the service runs, and its limits."""

    detrkit: str
    model: str
    device: str
    classes: list[ClassJson]
    image_spec: dict[str, Any]
    conf: float
    max_bytes: int
    max_pixels: int
    max_images: int
    timeout: float
    batch: int


class HealthJson(BaseModel):
    """`ready`, `starting` (the model has not answered yet) or `failing` (its latest try did)."""

    status: str


def _binary() -> dict[str, Any]:
    return {"schema": {"type": "string", "format": "binary"}}


def _form(images: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "properties": images}}


#: Bodies of the two endpoints, in OpenAPI's words.
ONE_IMAGE = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": _binary(),
            "application/octet-stream": _binary(),
            "multipart/form-data": _form({"image": {"type": "string", "format": "binary"}}),
        },
    }
}
SEVERAL_IMAGES = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": _form(
                {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}}
            )
        },
    }
}

#: Statuses without detections.
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": RefusalJson, "description": text}
    for status, text in {
        400: "No image, or a form that cannot be read",
        401: "No token, or a wrong one",
        408: "The upload did not arrive in time",
        413: "Too many bytes, pixels or images",
        415: "Not an image, nor a form",
        422: "An image that cannot be decoded, or a parameter that makes no sense",
        500: "The model failed",
        503: "Busy; Retry-After says when to ask again",
        504: "No answer in time",
    }.items()
}
