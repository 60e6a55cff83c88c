"""Reads the images of a request: its body, or the files of a form."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
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
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _files(content_type, body, most)
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
    content_type: str, body: AsyncGenerator[bytes, None], most: int
) -> list[ImageBytes]:
    """The files of a form, whatever its fields are called."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise Refused(400, "the Content-Type names no boundary", hint=_HINT)
    form = _Form(boundary, most)
    try:
        async for chunk in body:
            form.parser.write(chunk)
    except FormParserError as error:
        raise Refused(400, "the form cannot be read", hint=_HINT) from error
    if not form.files:
        raise Refused(400, "the form holds no file", hint=_HINT)
    if not form.is_complete:
        raise Refused(400, "the form ends too early")
    return [ImageBytes(bytes(content), name) for name, content in form.files]


class _Form:
    """Collects the files of a form while it is parsed; fields without a file name are dropped.

    Args:
        boundary: between its parts.
        most: files.
    """

    def __init__(self, boundary: bytes, most: int) -> None:
        self.files: list[tuple[str, bytearray]] = []
        self.is_complete = False
        self._most = most
        self._header, self._value = b"", b""
        self._content: bytearray | None = None  # of the part that is being read, if it is a file
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._end_header,
                "on_part_data": self._data,
                "on_end": self._end,
            },
        )

    def _begin(self) -> None:
        self._content = None

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        header, value = self._header.lower(), self._value
        self._header, self._value = b"", b""
        if header != b"content-disposition":
            return
        name = parse_options_header(value)[1].get(b"filename")
        if name is None:
            return
        if len(self.files) == self._most:
            hint = "POST /detect/batch takes several" if self._most == 1 else "send fewer at a time"
            raise Refused(413, f"more than {self._most} images", hint=hint)
        self._content = bytearray()
        shown = name.decode("utf-8", "replace")[:255]
        self.files.append((shown or UNNAMED, self._content))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._content is not None:
            self._content += data[start:end]

    def _end(self) -> None:
        self.is_complete = True


def _too_large(max_bytes: int) -> Refused:
    return Refused(
        413,
        f"the request is larger than {max_bytes / 1e6:g} MB",
        hint="send a smaller picture; `detrkit serve --max-megabytes` sets the limit",
    )
