"""A large JSON object, read piece by piece.

A file of a million annotations becomes ten times its size as Python objects. Here only a few
megabytes of it are in memory at a time:

    with JsonStream(path) as stream:
        for key in stream:
            if key == "annotations":
                for part in stream.elements(msgspec.json.Decoder(list[Annotation])):
                    ...

The text of an array is cut between two objects, `}, {`, and each piece is parsed as an array of
its own. A cut in the wrong place leaves a bracket or a string open and so never parses. A piece
that does not parse, or whose values are not of the expected types, is read element by element
with Python's own parser, which also accepts NaN and says where a mistake is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.utf8 import Encoding, NotUtf8, Utf8File

T = TypeVar("T")
R = TypeVar("R")

#: Bytes that are read and parsed at once.
BLOCK = 4 << 20

_BOUNDARY = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*(?=\{)")
_SPACE = re.compile(rb"[ \t\r\n]*")
_TEXT_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """Some elements of an array: one of the two.

    Attributes:
        typed: as the decoder makes them, or None where it could not.
        plain: as Python's own parser makes them.
    """

    typed: list[T] | None
    plain: list[Any] | None = None


class JsonStream:
    """Iterates over the keys of the object in a file; a value that is not asked for is skipped.

    Args:
        path: a text file.
        encoding: what it is in.
        block: bytes that are read and parsed at once; None means `BLOCK`.

    Raises:
        DataError: the file is missing, not JSON (line and column are named), or not an object.
        NotUtf8: it has the other encoding. May come after some values.
    """

    def __init__(
        self, path: str | Path, encoding: Encoding = "utf-8", block: int | None = None
    ) -> None:
        self.path = path
        self.block = block or BLOCK
        self._file = Utf8File(path, encoding)
        self._buffer = b""
        self._at = 0  # what is before it in the buffer has been read
        self._start = 0  # of the buffer in the file
        self._ended = False

    def __enter__(self) -> JsonStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        if self._peek() != b"{":
            self.skip()  # says what is wrong, if it is not JSON
            self.end()
            FaultReport().add(FaultKind.BAD_STRUCTURE, self.path, "", "expected a JSON object")
        self._at += 1
        first = True
        while True:
            token = self._peek()
            if token == b"}":
                break
            if not first:
                if token != b",":
                    self._stop("Expecting ',' delimiter")
                self._at += 1
                token = self._peek()
            if token != b'"':
                self._stop("Expecting property name enclosed in double quotes")
            key = self._value()
            if self._peek() != b":":
                self._stop("Expecting ':' delimiter")
            self._at += 1
            first = False
            self._peek()
            before = self._position
            yield key
            if self._position == before:
                self.skip()
        self._at += 1
        self.end()

    def end(self) -> None:
        """Makes sure that nothing follows."""
        if self._peek():
            self._stop("Extra data")

    @property
    def _position(self) -> int:
        return self._start + self._at

    def is_list(self) -> bool:
        """Whether the value of the present key, or the file at its start, is an array."""
        return self._peek() == b"["

    def value(self) -> Any:
        """The value of the present key as Python objects."""
        self._peek()
        return self._value()

    def skip(self) -> None:
        """Reads over the value of the present key."""
        if self.is_list():
            for _ in self.elements(_ANYTHING):
                pass
        else:
            self._value()

    def elements(self, decoder: msgspec.json.Decoder[list[T]]) -> Iterator[Part[T]]:
        """The elements of the array at which the file stands, some thousands at once.

        That is the value of the present key, or the file itself before any key was read.

        Args:
            decoder: makes a list of typed objects of the text of an array.
        """
        if self._peek() != b"[":
            raise ValueError("not an array")
        self._at += 1
        if self._peek() == b"]":
            self._at += 1
            return
        while True:
            self._fill(self.block)
            typed = self._typed(decoder)
            if typed is not None:
                yield Part(typed)
                continue
            plain, ended = self._plain()
            yield Part(None, plain)
            if ended:
                return

    def _typed(self, decoder: msgspec.json.Decoder[list[T]]) -> list[T] | None:
        """The elements up to the last boundary in the buffer, if they are as expected."""
        cut = self._boundary()
        if cut is None:
            return None
        end, following = cut
        try:
            found = decoder.decode(b"[%b]" % self._buffer[self._at : end])
        except (msgspec.DecodeError, RecursionError):
            return None
        self._at = following
        return found

    def _boundary(self) -> tuple[int, int] | None:
        """End of the last object but one in the buffer, and start of the one after it."""
        at = len(self._buffer)
        for _ in range(1000):  # braces that are no boundary: nested ones, or in strings
            at = self._buffer.rfind(b"}", self._at, at)
            if at < 0:
                return None
            found = _BOUNDARY.match(self._buffer, at)
            if found:
                return at + 1, found.end()
        return None

    def _plain(self) -> tuple[list[Any], bool]:
        """The complete elements in the buffer, and whether the array ends with them."""
        while True:
            text = self._decoded()
            elements: list[Any] = []
            at = read = 0
            try:
                while True:
                    element, at = _DECODER.raw_decode(text, _after_space(text, at))
                    at = _after_space(text, at)
                    if at == len(text) and not self._ended:
                        break  # a number may go on, and what follows is unknown
                    if text[at : at + 1] not in (",", "]"):
                        raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
                    elements.append(element)
                    read = at + 1
                    if text[at] == "]":
                        self._skip_text(text, read)
                        return elements, True
                    at = read
            except (ValueError, RecursionError) as error:
                if self._ended or not _may_go_on(error, text):
                    self._fail(error, text)
            if elements:
                self._skip_text(text, read)
                return elements, False
            self._fill(2 * (len(self._buffer) - self._at))

    def _value(self) -> Any:
        """One value of any type, at which the buffer stands."""
        window = min(1 << 16, self.block)
        while True:
            self._fill(window)
            text = self._decoded(window)
            whole = self._ended and len(self._buffer) - self._at <= window
            try:
                value, end = _DECODER.raw_decode(text)
                if end + 2 < len(text) or whole:  # `1.` and `1e-` may go on
                    self._skip_text(text, end)
                    return value
            except (ValueError, RecursionError) as error:
                if whole or not _may_go_on(error, text):
                    self._fail(error, text)
            window *= 4

    def _peek(self) -> bytes:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            found = _SPACE.match(self._buffer, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._buffer) or self._ended:
                return self._buffer[self._at : self._at + 1]
            self._fill(self.block)

    def _fill(self, count: int) -> None:
        """Makes `count` unread bytes available, if the file has so many."""
        if self._ended or len(self._buffer) - self._at >= count:
            return
        self._start += self._at
        blocks = [self._buffer[self._at :]]
        missing = count - len(blocks[0])
        while missing > 0 and not self._ended:
            data = self._file.read(max(missing, self.block))
            self._ended = not data
            blocks.append(data)
            missing -= len(data)
        self._buffer = b"".join(blocks)
        self._at = 0

    def _decoded(self, count: int | None = None) -> str:
        """The unread bytes, or `count` of them, as text; without a character that is cut."""
        end = None if count is None else self._at + count
        return self._buffer[self._at : end].decode("utf-8", "ignore")

    def _skip_text(self, text: str, count: int) -> None:
        """Moves on over so many characters of `text`."""
        self._at += count if text.isascii() else len(text[:count].encode())

    def _fail(self, error: Exception, text: str) -> None:
        """Reports what Python's parser said about the text at which the buffer stands."""
        if isinstance(error, json.JSONDecodeError):
            self._skip_text(text, error.pos)
            self._stop(error.msg)
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        FaultReport().add(FaultKind.BAD_JSON, self.path, "", reason)

    def _stop(self, reason: str) -> None:
        line, column = self._file.line_and_column(self._position)
        where = f"line {line}, column {column}"
        FaultReport().add(FaultKind.BAD_JSON, self.path, where, reason)


def _after_space(text: str, at: int) -> int:
    found = _TEXT_SPACE.match(text, at)
    assert found is not None  # no white space matches as well
    return found.end()


def _may_go_on(error: Exception, text: str) -> bool:
    """Whether more text could make sense of what Python's parser did not understand."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    # the longest thing without a string's end in sight is an escape, \uD800\uDC00
    return error.msg.startswith("Unterminated string") or error.pos > len(text) - 16


def read_either(path: str | Path, read: Callable[[JsonStream], R]) -> R:
    """What `read` makes of a file in either encoding.

    Args:
        path: the file.
        read: may be called a second time, and must start anew then.
    """
    try:
        with JsonStream(path) as stream:
            return read(stream)
    except NotUtf8:
        with JsonStream(path, "gb18030") as stream:
            return read(stream)


class _Anything(msgspec.Struct, gc=False):
    """An object of which nothing is wanted."""


_ANYTHING = msgspec.json.Decoder(list[_Anything])
