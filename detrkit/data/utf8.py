"""Large text files of either encoding, read as UTF-8 a piece at a time."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Literal

from detrkit.data.faults import FaultKind, FaultReport
from detrkit.errors import DataError

Encoding = Literal["utf-8", "gb18030"]

_CONTINUATION = bytes(range(0x80, 0xC0))
_BLOCK = 4 << 20


class NotUtf8(Exception):
    """The file has the other encoding."""


class Utf8File:
    """The content of a file as bytes in UTF-8, without BOM.

    Args:
        path: the file.
        encoding: what it is in.

    Raises:
        DataError: it is missing, cannot be read, or is in neither encoding.
        NotUtf8: it is not in UTF-8, as far as it has been read.
    """

    def __init__(self, path: str | Path, encoding: Encoding = "utf-8") -> None:
        self.path = path
        self.encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._first = True
        try:
            self._file = open(path, "rb")  # noqa: SIM115  # closed on exit
        except FileNotFoundError:
            FaultReport().add(FaultKind.MISSING_FILE, path)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from error

    def __enter__(self) -> Utf8File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def read(self, count: int) -> bytes:
        """About so many bytes, no half characters; empty at the end."""
        while True:
            try:
                data = self._file.read(count)
            except OSError as error:
                raise DataError(f"{self.path}: {error.strerror or error}") from error
            text = self._checked(data)
            if not data and self._decoder.getstate()[0]:  # the last character is cut
                self._decoder.reset()
                return "\N{REPLACEMENT CHARACTER}".encode()
            if self._first and text:
                text = text.removeprefix(codecs.BOM_UTF8)
                self._first = False
            if text or not data:
                return text

    def _checked(self, data: bytes) -> bytes:
        if self.encoding == "utf-8" and data.isascii() and not self._decoder.getstate()[0]:
            return data
        try:
            return self._decoder.decode(data).encode()
        except UnicodeError as error:
            if self.encoding == "utf-8":
                raise NotUtf8 from error
            raise DataError(f"{self.path}: not a text file (neither UTF-8 nor GB18030)") from error

    def line_and_column(self, position: int) -> tuple[int, int]:
        """Of a byte of what `read` gives, both counted from 1; columns count characters."""
        line, column = 1, 1
        with Utf8File(self.path, self.encoding) as file:
            while position > 0 and (data := file.read(_BLOCK)[:position]):
                position -= len(data)
                if b"\n" in data:
                    line += data.count(b"\n")
                    column = 1
                    data = data[data.rindex(b"\n") + 1 :]
                column += len(data.translate(None, _CONTINUATION))
        return line, column
