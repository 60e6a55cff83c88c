"""Ids as data sets have them, ints or text, looked up a million at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

#: Ids beyond 64 bits are kept as text.
_LIMIT = 1 << 63


def fits(value: object) -> bool:
    """Whether a value is an int that a 64-bit column can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and -_LIMIT <= value < _LIMIT


def as_column(values: Sequence[object]) -> npt.NDArray[np.int64] | None:
    """The values as int64 (N,), or None if one of them is anything but such an int."""
    if set(map(type, values)) - {int}:
        return None
    try:
        return np.array(values, np.int64)
    except OverflowError:
        return None


def narrow(column: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.signedinteger]:
    """The same numbers in the smallest signed type that holds them all."""
    low, high = int(column.min(initial=-1)), int(column.max(initial=0))
    # -high - 1 needs as many bits as high; a negative number gets a signed type
    return column.astype(np.min_scalar_type(min(low, -high - 1)))


@dataclass(frozen=True, slots=True)
class References:
    """Some ids that refer to something.

    Attributes:
        values: (R,) signed ints, ids, or places in `words`.
        is_word: (R,) bool, which of them are words; None for none.
        words: ids that are no 64-bit ints.
    """

    values: npt.NDArray[np.signedinteger]
    is_word: npt.NDArray[np.bool_] | None = None
    words: Sequence[int | str] = ()

    @classmethod
    def of(cls, ids: Sequence[int | str]) -> References:
        """Packs ids."""
        column = as_column(ids)
        if column is not None:
            return cls(column)
        places: dict[int | str, int] = {}
        is_word = [not fits(i) for i in ids]
        values = [
            places.setdefault(i, len(places)) if word else i
            for i, word in zip(ids, is_word, strict=True)
        ]
        return cls(np.array(values, np.int64), np.array(is_word, bool), list(places))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> int | str:
        value = int(self.values[row])
        return self.words[value] if self.is_word is not None and self.is_word[row] else value


class Lookup:
    """Finds the number of an id.

    An id that is an int here and text there, or the other way round, is the same one unless both
    exist.

    Args:
        ids: distinct ids, in the order of their numbers.
    """

    def __init__(self, ids: Sequence[int | str]) -> None:
        self._ids = ids
        self._words: dict[int | str, int] = {}
        column, numbers = as_column(ids), np.arange(len(ids), dtype=np.int32)
        if column is None:
            self._words = {i: n for n, i in enumerate(ids) if not fits(i)}
            numbers = np.array([n for n, i in enumerate(ids) if fits(i)], np.int32)
            column = np.array([ids[n] for n in numbers.tolist()], np.int64)
        order = np.argsort(column, kind="stable")
        self._keys, self._numbers = column[order], numbers[order]
        self._table: npt.NDArray[np.int32] | None = None
        first, last = (int(self._keys[0]), int(self._keys[-1])) if len(column) else (0, 0)
        if len(column) and last - first < 16 * len(column) + 1000:
            self._table = np.full(last - first + 1, -1, np.int32)
            self._table[self._keys - first] = self._numbers

    @cached_property
    def _by_text(self) -> dict[str, int]:
        return {str(i): n for n, i in enumerate(self._ids)}

    def find(self, references: References) -> npt.NDArray[np.int32]:
        """(R,) the number of each id, -1 where it has none."""
        values, is_word = references.values, references.is_word
        found = self._find_ints(values)
        if is_word is not None:
            table = [self._find_word(word) for word in references.words]
            found[is_word] = np.array(table, np.int32)[values[is_word]]
        if self._words:
            missing = found < 0 if is_word is None else (found < 0) & ~is_word
            for row in np.flatnonzero(missing):
                found[row] = self._by_text.get(str(values[row]), -1)
        return found

    def _find_ints(self, values: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.int32]:
        if not len(self._keys):
            return np.full(len(values), -1, np.int32)
        if self._table is not None:
            known = (values >= self._keys[0]) & (values <= self._keys[-1])
            return np.where(known, self._table[np.where(known, values - self._keys[0], 0)], -1)
        places = np.searchsorted(self._keys, values).clip(max=len(self._keys) - 1)
        return np.where(self._keys[places] == values, self._numbers[places], np.int32(-1))

    def _find_word(self, word: int | str) -> int:
        return self._words.get(word, self._by_text.get(str(word), -1))
