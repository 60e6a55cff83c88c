"""What was copied from a file into a model, and what was not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class LoadReport:
    """What `load_weights` did; every tensor of both sides is in exactly one list.

    Attributes:
        loaded: names that were copied whole.
        by_class: names of which rows were copied by class name.
        folded: names of stems of 3 channels -> channels of the model that they were folded into.
        by_query: names with one row per query, of which the file has another number -> (queries of
            the file, of the model); the first ones, as many as both have, were copied.
        num_queries: (of the file, of the model) where they differ and the file says so.
        kept: names of the model that are computed (anchors) or counted, not loaded.
        missing: names of the model that the file lacks; they keep their values.
        unexpected: names of the file that the model lacks.
        mismatched: name -> (shape in the file, shape in the model); not copied.
        matched_classes: class of the model -> class of the file whose rows it got.
        new_classes: classes of the model that the file does not know.
        source: of the weights.
    """

    loaded: list[str] = field(default_factory=list)
    by_class: list[str] = field(default_factory=list)
    folded: dict[str, int] = field(default_factory=dict)
    by_query: dict[str, tuple[int, int]] = field(default_factory=dict)
    num_queries: tuple[int, int] | None = None
    kept: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    matched_classes: dict[str, str] = field(default_factory=dict)
    new_classes: list[str] = field(default_factory=list)
    source: str = ""

    @property
    def copied(self) -> list[str]:
        """Names of the model that got values from the file, in whichever way."""
        return [*self.loaded, *self.by_class, *self.folded, *self.by_query]

    @property
    def total(self) -> int:
        """Tensors of the model that can be loaded."""
        return len(self.copied) + len(self.missing) + len(self.mismatched)

    @property
    def complete(self) -> bool:
        """Whether every tensor found its place."""
        return not (self.missing or self.mismatched or self.unexpected)

    def by_group(self) -> dict[str, dict[str, int]]:
        """Counts by part of the model: {"backbone": {"loaded": 261, "missing": 0, …}, …}."""
        table: dict[str, dict[str, int]] = {}
        for kind, names in (
            ("loaded", self.copied),
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("mismatched", list(self.mismatched)),
        ):
            for name in names:
                counts = table.setdefault(
                    name.split(".", 1)[0],
                    {"loaded": 0, "missing": 0, "unexpected": 0, "mismatched": 0},
                )
                counts[kind] += 1
        return table

    def describe(self, most: int = 8) -> str:
        """What was loaded and what was not, in a few lines."""
        groups = ", ".join(
            f"{group} {counts['loaded']}/{sum(counts.values()) - counts['unexpected']}"
            for group, counts in self.by_group().items()
            if sum(counts.values()) > counts["unexpected"]
        )
        lines = [f"loaded {len(self.copied)} of {self.total} tensors from {self.source} ({groups})"]
        lines += [f"stem {name}: 3 channels folded into {n}" for name, n in self.folded.items()]
        lines += self._queries()
        if self.by_class:
            pairs = [_pair(a, b) for a, b in self.matched_classes.items()]
            rows = f"rows of {some(pairs, most)} copied" if pairs else "no class in common"
            lines.append(f"{len(self.by_class)} class tensors: {rows}")
        if self.new_classes:
            lines.append(f"new classes, from random: {some(self.new_classes, most)}")
        if self.mismatched:
            shapes = [f"{n} {list(a)} -> {list(b)}" for n, (a, b) in self.mismatched.items()]
            lines.append(f"other shapes, not loaded: {some(shapes, most)}")
        if self.missing:
            lines.append(f"not in the file: {some(self.missing, most)}")
        if self.unexpected:
            lines.append(f"not in the model: {some(self.unexpected, most)}")
        return "\n".join(lines)

    def _queries(self) -> list[str]:
        lines = []
        for name, (theirs, mine) in self.by_query.items():
            rest = f", the other {mine - theirs} start from random" if mine > theirs else ""
            first = min(theirs, mine)
            lines.append(f"num_queries {theirs} -> {mine}: the first {first} rows of {name}{rest}")
        if self.num_queries is not None and not self.by_query:
            theirs, mine = self.num_queries
            lines.append(
                f"num_queries {theirs} -> {mine}: selected by score, no tensor depends on it"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "source": self.source,
            "loaded": len(self.loaded),
            "groups": self.by_group(),
            "by_class": self.by_class,
            "folded": self.folded,
            "by_query": {name: list(rows) for name, rows in self.by_query.items()},
            "num_queries": list(self.num_queries) if self.num_queries else None,
            "missing": self.missing,
            "unexpected": self.unexpected,
            "mismatched": {n: [list(a), list(b)] for n, (a, b) in self.mismatched.items()},
            "matched_classes": self.matched_classes,
            "new_classes": self.new_classes,
        }


def some(items: Sequence[str], most: int) -> str:
    """The first `most` items, and how many more there are."""
    if not items:
        return "nothing"
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def _pair(mine: str, their: str) -> str:
    return mine if mine == their else f"{mine} (from {their})"
