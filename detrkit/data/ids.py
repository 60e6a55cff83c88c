"""Ids as data sets have them, ints or text, as one column of integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

#: Ids beyond 64 bits are kept as text.
_LIMIT = 1 << 63

#: Rows that are looked up at once.
_BLOCK = 1 << 20


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


class IdColumn:
    """A growing column of references to ids.

    Ints stand for themselves; every other id is a word with a number.
    """

    def __init__(self) -> None:
        self._values: list[npt.NDArray[np.int64]] = []
        self._is_word: list[npt.NDArray[np.bool_]] = []
        self._words: dict[int | str, int] = {}
        self._names: list[int | str] = []

    def extend(self, values: Sequence[int | str]) -> None:
        """Appends ids."""
        column = as_column(values)
        if column is not None:
            self._values.append(column)
            self._is_word.append(np.zeros(len(values), bool))
            return
        is_word = np.array([not fits(v) for v in values], bool)
        words = self._words
        self._is_word.append(is_word)
        self._values.append(
            np.array(
                [
                    words.setdefault(v, len(words)) if word else v
                    for v, word in zip(values, is_word.tolist(), strict=True)
                ],
                np.int64,
            )
        )

    def finish(self) -> None:
        """Joins what was appended; nothing may be appended after that."""
        self._values = [np.concatenate([*self._values, np.zeros(0, np.int64)])]
        self._is_word = [np.concatenate([*self._is_word, np.zeros(0, bool)])]
        self._names = list(self._words)

    def __getitem__(self, row: int) -> int | str:
        """The id in a row; only after `finish`."""
        value = int(self._values[0][row])
        return self._names[value] if self._is_word[0][row] else value

    def find(self, numbers: Mapping[int | str, int]) -> npt.NDArray[np.int64]:
        """The number of each row's id, -1 where it has none; only after `finish`.

        An id that is an int here and text there, or the other way round, is the same one unless
        both exist.

        Args:
            numbers: {id: number}.
        """
        values, is_word = self._values[0], self._is_word[0]
        known = {i: n for i, n in numbers.items() if fits(i)}
        keys = np.fromiter(known, np.int64, len(known))
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        found = np.full(len(values), -1, np.int64)
        if len(keys):
            targets = np.fromiter(known.values(), np.int64, len(known))[order]
            for start in range(0, len(values), _BLOCK):  # bounds what is allocated
                part = slice(start, start + _BLOCK)
                places = np.searchsorted(keys, values[part]).clip(max=len(keys) - 1)
                found[part] = np.where(keys[places] == values[part], targets[places], -1)
        if not self._words and len(known) == len(numbers):
            return found
        by_text = {str(i): n for i, n in numbers.items()}
        found[is_word] = -1
        missing = (found < 0) & ~is_word
        unique, where = np.unique(values[missing], return_inverse=True)
        found[missing] = np.array([by_text.get(str(v), -1) for v in unique], np.int64)[where]
        table = [numbers.get(word, by_text.get(str(word), -1)) for word in self._words]
        found[is_word] = np.array(table, np.int64)[values[is_word]]
        return found
