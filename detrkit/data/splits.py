"""What people call the parts of a data set."""

from __future__ import annotations

from collections.abc import Mapping

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation", "dev"),
    "test": ("test", "testing"),
}


def split_of(name: str) -> str | None:
    """The split that a file or folder name such as `instances_val2017` speaks of."""
    words = name.lower()
    for split, aliases in SPLIT_NAMES.items():
        for alias in aliases:
            at = words.find(alias)
            # a whole word: "val2017" and "x_val", not "interval"
            if at >= 0 and not words[at - 1 : at].isalpha():
                rest = words[at + len(alias) :]
                if not rest[:1].isalpha():
                    return split
    return None
