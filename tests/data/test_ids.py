"""Looking ids up by the million gives what a dictionary gives."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detrkit.data.ids import Lookup, References, narrow

INTS = st.integers(-5, 30) | st.integers(-(2**63), 2**63 - 1) | st.integers(2**63, 2**70)
IDS = INTS | st.integers(-3, 5).map(str) | st.sampled_from(["a", "b", "日", "01", ""])


def plainly(ids: list[int | str], wanted: int | str) -> int:
    """The same id, else the same text."""
    if wanted in ids:
        return ids.index(wanted)
    texts = {str(i): n for n, i in enumerate(ids)}
    return texts.get(str(wanted), -1)


@given(st.lists(IDS, unique=True, max_size=20), st.lists(IDS, max_size=20))
def test_as_a_dictionary(ids: list[int | str], wanted: list[int | str]) -> None:
    references = References.of(wanted)
    assert [references[row] for row in range(len(references))] == wanted
    found = Lookup(ids).find(references)
    assert found.tolist() == [plainly(ids, w) for w in wanted]


@given(st.lists(st.integers(0, 50), unique=True), st.lists(st.integers(-5, 60)))
def test_dense_ids(ids: list[int], wanted: list[int]) -> None:
    found = Lookup(ids).find(References.of(wanted))
    assert found.tolist() == [ids.index(w) if w in ids else -1 for w in wanted]


@given(st.lists(INTS.filter(lambda i: -(2**63) <= i < 2**63)))
def test_narrow_columns_lose_nothing(values: list[int]) -> None:
    found = narrow(np.array(values, np.int64))
    assert found.tolist() == values
    bits = max((max(v, -v - 1).bit_length() for v in values), default=0) + 1
    assert found.dtype.itemsize * 8 < max(2 * bits, 16)
