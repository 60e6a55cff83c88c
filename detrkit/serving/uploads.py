"""Reads the images of a request: its body, or the files of a form."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from detrkit.data.image_bytes import ImageBytes
from detrkit.serving.memory import Held
from detrkit.serving.refusals import Refused

#: Content types that say nothing; the last one is what `curl --data-binary` names.
_UNSAID = ("", "application/octet-stream", "application/x-www-form-urlencoded")

#: What a body without a file name is called in messages.
UNNAMED = "the image"

_HINT = "curl -F image=@photo.jpg URL, or curl --data-binary @photo.jpg URL"


async def read_uploads(
    request: Request, *, max_bytes: int, most: int, held: Held
) -> list[ImageBytes]:
    """The images of a request, one or more, not decoded.

    What kind of image it is says the content; type and file name do not count.

    Args:
        request: whose body was not read yet.
        max_bytes: of the body.
        most: images.
        held: counts the bytes as they come in.

    Raises:
        Refused: 400, 413 or 415.
        ClientDisconnect: nobody waits for the answer.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    body = _counted(request, max_bytes, held)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _files(request, body, max_bytes, most)
    if kind not in _UNSAID and not kind.startswith("image/"):
        raise Refused(415, f"{kind} is not accepted: an image, or a form with images", hint=_HINT)
    content = b"".join([chunk async for chunk in body])
    if not content:
        raise Refused(400, "the request has no body", hint=_HINT)
    return [ImageBytes(content, UNNAMED)]


async def _counted(request: Request, max_bytes: int, held: Held) -> AsyncGenerator[bytes, None]:
    """The body, as long as it is not too long."""
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > max_bytes:
            raise _too_large(max_bytes)
        held.take(len(chunk))
        yield chunk


async def _files(
    request: Request, body: AsyncGenerator[bytes, None], max_bytes: int, most: int
) -> list[ImageBytes]:
    """The files of a form, whatever its fields are called."""
    parser = MultiPartParser(request.headers, body, max_files=most + 1, max_fields=20)
    parser.spool_max_size = max_bytes  # no temporary files on disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, error.message, hint=_HINT) from error
    except (FormParserError, LookupError, ValueError) as error:
        raise Refused(400, "the form cannot be read", hint=_HINT) from error
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    images = [ImageBytes(await file.read(), (file.filename or UNNAMED)[:255]) for file in files]
    await form.close()
    if not images:
        raise Refused(400, "the form holds no file", hint=_HINT)
    if len(images) > most:
        hint = "POST /detect/batch takes several" if most == 1 else "send fewer at a time"
        raise Refused(413 if most > 1 else 400, f"more than {most} images", hint=hint)
    return images


def _too_large(max_bytes: int) -> Refused:
    return Refused(
        413,
        f"the request is larger than {max_bytes / 1e6:g} MB",
        hint="send a smaller picture; `detrkit serve --max-megabytes` sets the limit",
    )
