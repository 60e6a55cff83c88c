"""Many strings in one array.

A list of a million Python strings is copied into every loader worker, page by page, as soon as
reference counts change. Two NumPy arrays are shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PackedStrings:
    """An immutable sequence of strings.

    Attributes:
        blob: (bytes,) uint8, all strings in UTF-8, one after the other.
        offsets: (N + 1,) int64, where each string starts.
    """

    blob: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def pack(cls, strings: Iterable[str]) -> PackedStrings:
        """Packs strings, undecodable parts of file names included."""
        return cls._joined([_encoded(s) for s in strings])

    @classmethod
    def concat(cls, parts: Sequence[PackedStrings]) -> PackedStrings:
        """All strings of `parts` in one."""
        lengths = [np.diff(part.offsets) for part in parts] or [np.zeros(0, np.int64)]
        blobs = [part.blob for part in parts] or [np.zeros(0, np.uint8)]
        return cls(np.concatenate(blobs), _starts(np.concatenate(lengths)))

    @classmethod
    def _joined(cls, parts: Sequence[bytes | memoryview]) -> PackedStrings:
        return cls(np.frombuffer(b"".join(parts), np.uint8), _starts([len(p) for p in parts]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int | np.integer) -> str: ...
    @overload
    def __getitem__(self, index: npt.NDArray[np.integer]) -> PackedStrings: ...
    def __getitem__(self, index: int | np.integer | npt.NDArray[np.integer]) -> str | PackedStrings:
        if isinstance(index, np.ndarray):
            data = np.ascontiguousarray(self.blob).data
            bounds = zip(
                self.offsets[index].tolist(), self.offsets[index + 1].tolist(), strict=True
            )
            return PackedStrings._joined([data[start:end] for start, end in bounds])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = int(index) % len(self)
        start, end = self.offsets[index : index + 2]
        return self.blob[start:end].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


class StringColumn:
    """Strings that come one by one and are packed on the way."""

    def __init__(self) -> None:
        self._packed: list[PackedStrings] = []
        self._new: list[str] = []

    def append(self, text: str) -> None:
        """Adds a string."""
        self._new.append(text)
        if len(self._new) >= 1 << 14:
            self._pack()

    def finish(self) -> PackedStrings:
        """All strings so far."""
        self._pack()
        if len(self._packed) > 1:
            self._packed = [PackedStrings.concat(self._packed)]
        return self._packed[0]

    def _pack(self) -> None:
        self._packed.append(PackedStrings.pack(self._new))
        self._new = []


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, as broken JSON escapes have it
        return text.encode("utf-8", "backslashreplace")


def _starts(lengths: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
