"""Class names, contiguous indices and the data set's own category ids."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from detrkit.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class ClassMap:
    """Index i of the model means `names[i]`, which the data set calls `category_ids[i]`.

    Attributes:
        names: class names in index order.
        category_ids: the data set's ids, int or str, in index order; any values, gaps included.
    """

    names: tuple[str, ...]
    category_ids: tuple[int | str, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.category_ids):
            raise ValueError(f"{len(self.names)} names for {len(self.category_ids)} category ids")
        if len(set(self.category_ids)) != len(self.category_ids):
            raise ValueError(f"category ids repeat: {self.category_ids}")

    @classmethod
    def from_names(cls, names: Iterable[str], first_id: int = 0) -> ClassMap:
        """Ids counted up from `first_id` in the order of `names`."""
        names = tuple(names)
        return cls(names, tuple(range(first_id, first_id + len(names))))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClassMap:
        """Inverse of `to_dict`."""
        return cls(tuple(data["names"]), tuple(data["category_ids"]))

    def to_dict(self) -> dict[str, list[Any]]:
        """Plain lists, for checkpoints and JSON."""
        return {"names": list(self.names), "category_ids": list(self.category_ids)}

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def index_of_id(self) -> dict[int | str, int]:
        """Category id -> contiguous index."""
        return {category: index for index, category in enumerate(self.category_ids)}

    @cached_property
    def index_of_name(self) -> dict[str, int]:
        """Class name -> contiguous index; of equal names the first."""
        return {name: index for index, name in reversed(list(enumerate(self.names)))}

    def indices(self, classes: Sequence[str | int]) -> list[int]:
        """Indices of classes given by name or index; case counts only where it has to.

        Raises:
            UsageError: there is no such class; suggests a near name.
        """
        return [self._index(item) for item in classes]

    def _index(self, item: str | int) -> int:
        known = self.index_of_name
        if isinstance(item, str) and item not in known:
            lowered = {name.lower(): i for name, i in known.items()}
            if item.lower() in lowered:
                return lowered[item.lower()]
            if not (item.isascii() and item.removeprefix("-").isdigit()):
                shown = f"{', '.join(self.names[:20])}{', …' if len(self) > 20 else ''}"
                raise UsageError(
                    f"the detector knows no class `{item}`{did_you_mean(item, self.names)}",
                    hint=f"its classes: {shown}",
                )
        index = known[item] if isinstance(item, str) and item in known else int(item)
        if not 0 <= index < len(self):
            raise UsageError(f"class {index} is outside 0 to {len(self) - 1}")
        return index

    @cached_property
    def colors(self) -> tuple[tuple[int, int, int], ...]:
        """One RGB colour (0–255) per class, far apart in hue and stable for an index."""
        return tuple(color_of(index) for index in range(len(self)))


def color_of(index: int) -> tuple[int, int, int]:
    """The RGB colour (0–255) of a class or a track.

    Hues stepped by the golden ratio never come close to each other early.
    """
    hue = (0.58 + index * 0.61803398875) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85 - 0.25 * (index % 2), 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
