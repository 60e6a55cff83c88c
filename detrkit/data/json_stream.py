"""Reading JSON files that are larger than memory: one object whose long lists are streamed.

The annotations of Objects365 are 25 million objects in one list. As Python objects they need
about twenty gigabytes; read one after the other, the size of one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TextIO

from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.text import text_encoding

_CHUNK = 1 << 20  # characters
_LONGEST_STRING = 1 << 26
_WHITESPACE = " \t\n\r"


@dataclass(frozen=True)
class StreamedList:
    """Stands for a list that was not kept.

    Attributes:
        length: number of its entries.
    """

    length: int


@dataclass(frozen=True)
class JsonFile:
    """A JSON file that holds one object.

    Attributes:
        path: the file; UTF-8 with or without BOM, or GB18030.
    """

    path: Path

    def members(self, skip: Collection[str] = ()) -> dict[str, Any]:
        """The object, with a `StreamedList` in place of each list that `skip` names.

        Raises:
            DataError: the file is missing, not JSON, or holds something else than an object.
        """
        found: dict[str, Any] = {}
        with self._open() as file:
            cursor = _Cursor(file, self.path)
            for key in cursor.names():
                if key in skip and cursor.peek() == "[":
                    found[key] = StreamedList(sum(1 for _ in cursor.entries()))
                else:
                    found[key] = cursor.value()
        return found

    def entries(self, key: str) -> Iterator[Any]:
        """The entries of the list called `key`, one after the other.

        Raises:
            DataError: as `members`, or there is no such list.
        """
        with self._open() as file:
            cursor = _Cursor(file, self.path)
            for name in cursor.names():
                if name == key and cursor.peek() == "[":
                    yield from cursor.entries()
                    return
                cursor.value()
        FaultReport().add(FaultKind.BAD_STRUCTURE, self.path, "", f"`{key}` must be a list")

    def _open(self) -> TextIO:
        return open(self.path, encoding=self._encoding, newline="")

    @cached_property
    def _encoding(self) -> str:
        if not self.path.is_file():
            FaultReport().add(FaultKind.MISSING_FILE, self.path)
        return text_encoding(self.path)


class _Cursor:
    """Walks through the text of a file, of which it holds a window."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._line, self._column = 1, 1  # of the window's first character

    def names(self) -> Iterator[str]:
        """Names of the object's members; the caller takes each value before the next name."""
        self._expect("{", "expected a JSON object")
        if self.peek() == "}":
            self._at += 1
        else:
            while True:
                if self.peek() != '"':
                    self._fail("expected a name in double quotes", self._at)
                key = self.value()
                self._expect(":", "expected `:`")
                self.peek()
                yield key
                if self._next_of("}"):
                    break
        if self.peek():
            self._fail("something follows the object", self._at)

    def entries(self) -> Iterator[Any]:
        """The entries of the list that starts here."""
        self._expect("[", "expected a list")
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            self.peek()
            yield self.value()
            if self._next_of("]"):
                return

    def value(self) -> Any:
        """The JSON value that starts here."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._may_be_cut_off(error) and self._grow():
                    continue
                self._fail(error.msg, error.pos)
            except RecursionError:
                self._fail("nested too deeply", self._at)
            except ValueError as error:  # a number of thousands of digits
                self._fail(str(error), self._at)
            # a number near the end of the window may go on, even after `1e-`
            if len(self._text) - end < 3 and isinstance(value, int | float) and self._grow():
                continue
            self._at = end
            return value

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _WHITESPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._grow():
                return ""

    def _next_of(self, closing: str) -> bool:
        """Steps over a comma, or over `closing` and says so."""
        found = self.peek()
        if found not in (",", closing) or not found:
            self._fail(f"expected `,` or `{closing}`", self._at)
        self._at += 1
        return found == closing

    def _expect(self, character: str, otherwise: str) -> None:
        if self.peek() != character:
            self._fail(otherwise, self._at)
        self._at += 1

    def _may_be_cut_off(self, error: json.JSONDecodeError) -> bool:
        """Whether it is the window's end rather than the file that breaks the value."""
        if error.msg.startswith("Unterminated string"):
            return len(self._text) - error.pos < _LONGEST_STRING
        return len(self._text) - error.pos < 16  # the longest word is -Infinity

    def _grow(self) -> bool:
        """Drops what was read and doubles the rest; False at the end of the file."""
        chunk = self._file.read(max(_CHUNK, len(self._text) - self._at))
        if not chunk:
            return False
        self._line, self._column = self._place(self._at)
        self._text, self._at = self._text[self._at :] + chunk, 0
        return True

    def _place(self, position: int) -> tuple[int, int]:
        newlines = self._text.count("\n", 0, position)
        if not newlines:
            return self._line, self._column + position
        return self._line + newlines, position - self._text.rfind("\n", 0, position)

    def _fail(self, reason: str, position: int) -> NoReturn:
        line, column = self._place(position)
        where = f"line {line}, column {column}"
        FaultReport().add(FaultKind.BAD_JSON, self._path, where, reason)
        raise AssertionError  # the line above raises
