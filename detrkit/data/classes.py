"""From what a data set calls its classes to the model's contiguous indices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from detrkit.data.faults import FaultKind, FaultReport
from detrkit.structures import ClassMap


def merge_categories(sources: Iterable[tuple[str, Mapping[int | str, str]]]) -> ClassMap:
    """One class map for several annotation files, sorted by category id.

    Args:
        sources: pairs of file and {category id: name}.

    Raises:
        DataError: two files (or entries) give one id to different classes.
    """
    names: dict[int | str, str] = {}
    for file, categories in sources:
        for category, name in categories.items():
            known = names.setdefault(category, name)
            if known != name:
                FaultReport().add(
                    FaultKind.DUPLICATE_CATEGORY_ID,
                    file,
                    f"category {category}",
                    f"`{known}` and `{name}`",
                )
    ordered = sorted(names, key=lambda i: (isinstance(i, str), i))
    return ClassMap(tuple(names[i] for i in ordered), tuple(ordered))


def adopt(wanted: ClassMap, found: ClassMap) -> tuple[ClassMap, dict[int, int]]:
    """Fits a data set to classes that are already decided, e.g. those of a checkpoint.

    Classes are matched by name.

    Returns:
        The wanted names in their order with the category ids that this data set uses, and
        {index in `found`: index in the result}. Classes of the data set that are not wanted are
        missing from the latter.
    """
    ids: list[int | str] = []
    taken = set(found.category_ids)
    free = max(
        [i for i in (*found.category_ids, *wanted.category_ids) if isinstance(i, int)] or [0]
    )
    for name, category in zip(wanted.names, wanted.category_ids, strict=True):
        if name in found.index_of_name:
            ids.append(found.category_ids[found.index_of_name[name]])
            continue
        if category in taken:  # an id that means something else here
            free += 1
            category = free
        taken.add(category)
        ids.append(category)
    if len(set(ids)) < len(ids):  # equal names among the wanted classes
        ids = list(wanted.category_ids)
    matches = {
        index: wanted.index_of_name[name]
        for index, name in enumerate(found.names)
        if name in wanted.index_of_name
    }
    return ClassMap(wanted.names, tuple(ids)), matches
