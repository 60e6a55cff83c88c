"""Many strings in one array.

A list of a million Python strings is copied into every loader worker, page by page, as soon as
reference counts change. Two NumPy arrays are shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
        parts = [s.encode("utf-8", "surrogateescape") for s in strings]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(p) for p in parts], out=offsets[1:])
        return cls(np.frombuffer(b"".join(parts), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int | np.integer) -> str: ...
    @overload
    def __getitem__(self, index: npt.NDArray[np.integer]) -> PackedStrings: ...
    def __getitem__(self, index: int | np.integer | npt.NDArray[np.integer]) -> str | PackedStrings:
        if isinstance(index, np.ndarray):
            return PackedStrings.pack(self[int(i)] for i in index)
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = int(index) % len(self)
        start, end = self.offsets[index : index + 2]
        return self.blob[start:end].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))
