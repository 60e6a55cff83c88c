"""Step 2, dialect: the names that the official repositories use for the same thing.

Both spellings are official, so both load. One file (or one command line) that gives both with
different values is an error.
"""

from __future__ import annotations

from detrkit.config.tree import Tree
from detrkit.errors import Problem

#: Old top-level key -> today's. RT-DETRv2 and DEIM spell `epoches`; DEIM spells `lrsheduler`; forks
#: spell `yolo_metrice`.
KEYS = {
    "epoches": "epochs",
    "lrsheduler": "lr_scheduler_kind",
    "lrscheduler": "lr_scheduler_kind",
    "yolo_metrice": "yolo_metrics",
}


def canonical(key: str) -> str:
    """Today's name of a dotted key: "epoches" -> "epochs"."""
    head, dot, rest = key.partition(".")
    return KEYS.get(head, head) + dot + rest


def translate(layer: Tree) -> list[Problem]:
    """Renames old keys of one layer in place; returns the contradictions found."""
    problems = []
    for old, new in KEYS.items():
        if old not in layer.data:
            continue
        value = layer.data[old]
        if new in layer.data and layer.data[new] != value:
            problems.append(
                Problem(
                    str(layer.origins[(old,)]),
                    f"{old}: means the same as `{new}`, which is {layer.data[new]!r} at "
                    f"{layer.origins[(new,)]}; keep one of them",
                )
            )
            continue
        renamed = Tree(
            {new: value},
            {(new, *k[1:]): o for k, o in layer.origins.items() if k[:1] == (old,)},
        )
        layer.remove((old,))
        layer.merge(renamed)
    return problems
