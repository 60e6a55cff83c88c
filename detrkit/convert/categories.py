"""Renaming, merging and choosing classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detrkit.convert.document import LEFT_OUT, CocoDocument
from detrkit.convert.sources import relabelled
from detrkit.data.text import read_yaml
from detrkit.errors import DataError, UsageError, did_you_mean


@dataclass(frozen=True)
class ClassChanges:
    """What to do with classes.

    Attributes:
        names: {old name: new name, or None to drop the class}; classes that get one name become
            one class. Others stay.
        keep: drop all classes but these, by their new names; empty keeps all.
        first_id: number the classes anew from here, in their order; None keeps their ids.
        drop_empty: leave out images that lose all of their boxes.
    """

    names: Mapping[str, str | None] = field(default_factory=dict)
    keep: Sequence[str] = ()
    first_id: int | None = None
    drop_empty: bool = False

    @classmethod
    def from_options(
        cls,
        known: Sequence[str],
        *,
        renames: Sequence[str] = (),
        merges: Sequence[str] = (),
        keep: Sequence[str] = (),
        drop: Sequence[str] = (),
        file: Path | None = None,
        first_id: int | None = None,
        drop_empty: bool = False,
    ) -> ClassChanges:
        """From what the command line says.

        Args:
            known: names of the data set.
            renames: `old=new`.
            merges: `new=old,old`.
            keep, drop: names, or several with commas.
            file: YAML or JSON mapping of old names to new ones, null to drop.
            first_id, drop_empty: as they are.

        Raises:
            UsageError: an option cannot be read, names a class that there is not, or contradicts
                another.
            DataError: the file is not such a mapping.
        """
        names: dict[str, str | None] = {}

        def change(old: str, new: str | None, option: str) -> None:
            if old not in known:
                raise UsageError(
                    f"{option}: there is no class `{old}`{did_you_mean(old, known)}",
                    hint="classes: " + ", ".join(known[:20]) + ("…" if len(known) > 20 else ""),
                )
            if names.setdefault(old, new) != new:
                raise UsageError(f"{option}: `{old}` is to become `{names[old]}` already")

        for old, new in (_mapping_of(file) if file else {}).items():
            change(old, new, f"--map {file}")
        for text in renames:
            old, new = _pair(text, known, "--rename", "old=new")
            change(old, new, "--rename")
        for text in merges:
            new, olds = _pair(text, (), "--merge", "new=old,old")
            for old in _listed(olds, known):
                change(old, new, "--merge")
        for text in drop:
            for old in _listed(text, known):
                change(old, None, "--drop")
        results = [names.get(name, name) for name in known]
        after = [name for name in dict.fromkeys(results) if name is not None]
        kept = [name for text in keep for name in _listed(text, after)]
        for name in kept:
            if name not in after:
                raise UsageError(
                    f"--keep: there is no class `{name}`{did_you_mean(name, after)}",
                    hint="it takes names as they are after renaming and merging",
                )
        return cls(names, kept, first_id, drop_empty)

    def apply(self, document: CocoDocument) -> CocoDocument:
        """The document with these changes. Documents with equal categories stay equal in them."""
        categories: list[dict[str, Any]] = []
        row_of: dict[str, int] = {}
        labels: list[int] = []
        originals = set(document.names)
        for category in document.categories:
            old = str(category["name"])
            new = self.names.get(old, old)
            if new is None or (self.keep and new not in self.keep):
                labels.append(LEFT_OUT)
                continue
            if new not in row_of:
                row_of[new] = len(categories)
                categories.append(category | {"name": new})
            elif old == new:  # the class whose name was taken knows best what it is
                categories[row_of[new]] = dict(category)
            elif new not in originals:  # a new class: what one of its parts says is not its own
                kept = categories[row_of[new]]
                categories[row_of[new]] = {"id": kept["id"], "name": new}
            labels.append(row_of[new])
        if self.first_id is not None:
            numbered = enumerate(categories, start=self.first_id)
            categories = [category | {"id": number} for number, category in numbered]
        changed = relabelled(document, categories, labels)
        if self.drop_empty:
            emptied = (document.per_image() > 0) & (changed.per_image() == 0)
            changed = changed.subset(np.flatnonzero(~emptied))
        return changed


def _mapping_of(file: Path) -> dict[str, str | None]:
    content = read_yaml(file)
    if not isinstance(content, Mapping) or not all(
        isinstance(new, str | int | None) for new in content.values()
    ):
        raise DataError(
            f"{file}: expected a mapping of old names to new ones",
            hint="a line `van: car` merges van into car, `bench: null` drops bench",
        )
    return {str(old): None if new is None else str(new) for old, new in content.items()}


def _pair(text: str, known: Sequence[str], option: str, form: str) -> tuple[str, str]:
    """Both sides of a `=`; where there are several, the one that leaves a known name before it."""
    places = [place for place, letter in enumerate(text) if letter == "="]
    place = next((p for p in places if text[:p] in known), places[0] if places else -1)
    left, right = text[:place].strip(), text[place + 1 :].strip()
    if place < 0 or not left or not right:
        raise UsageError(f"{option} {text}: write {form}")
    return left, right


def _listed(text: str, known: Sequence[str]) -> list[str]:
    """Names with commas between them; a name that has a comma itself is taken as it is."""
    if text in known:
        return [text]
    return [name.strip() for name in text.split(",") if name.strip()]
