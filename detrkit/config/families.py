"""What a file of one official repository means by an argument that it leaves out.

Some components have one name in several repositories, but other defaults in each. A file says by
its model or its decoder which repository it was written for; what that one assumes is filled in
here, visibly, and only where the file (or a flag) says nothing itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from detrkit.config.tree import Keys, Origin, Tree, find

#: Stands for the top level of the file, where the run settings are.
RUN = "run"


class Assumption(NamedTuple):
    """`component` of a file whose `part` is a `sign` has `argument` = `value`."""

    part: str
    sign: str
    component: str
    argument: str
    value: Any


ASSUMPTIONS = (
    # RT-DETR's repository knows no other fusion blocks; D-FINE's are the default everywhere else
    Assumption("model", "RTDETR", "HybridEncoder", "version", "v2"),
    # RT-DETR's averages rise over twice the steps of the others
    Assumption("model", "RTDETR", "ModelEMA", "warmups", 2000),
    # and its trainer goes on from the weights it has when strong augmentation ends
    Assumption("model", "RTDETR", RUN, "restart_from_best", False),
    # DEIMv2 does not project maps that have the right width already. Its decoder is nowhere else.
    # Its repository also has files of DEIM, whose weights were trained with every map projected.
    Assumption("decoder", "DEIMTransformer", "HybridEncoder", "project_equal", False),
)


def complete(tree: Tree) -> None:
    """Fills in what the file's repository assumes; changes a merged tree in place."""
    model = _component(tree, ("model",))
    if model is None:
        return
    parts: dict[str, tuple[str, Keys]] = {RUN: (RUN, ()), "model": model}
    slots = {name: (*model[1], name) for name in ("backbone", "encoder", "decoder")}
    for name, slot in {**slots, "ema": ("ema",)}.items():
        found = _component(tree, slot)
        if found is not None:
            parts[name] = found
    for part, sign, component, argument, value in ASSUMPTIONS:
        if part not in parts or parts[part][0] != sign:
            continue
        for kind, keys in parts.values():
            given = _value(tree, keys)
            if kind == component and not (isinstance(given, dict) and argument in given):
                tree.set((*keys, argument), value, Origin(flag=f"default of {sign}"))


def _component(tree: Tree, slot: Keys) -> tuple[str, Keys] | None:
    """Type and place of the arguments of what the slot names or holds; None if it is neither."""
    value = _value(tree, slot)
    keys: Keys = slot
    if isinstance(value, str):
        section = tree.data.get(value)
        if not isinstance(section, dict) or "type" not in section:
            return value, (value,)
        keys = (value,)
        value = section
    if isinstance(value, dict) and isinstance(value.get("type"), str):
        return value["type"], keys
    return None


def _value(tree: Tree, keys: Keys) -> Any:
    try:
        return find(tree.data, keys)
    except KeyError:
        return None
