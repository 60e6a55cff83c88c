"""Short forms on top of the dialect, expanded into it.

    image_size: [h, w]    eval_spatial_size, `size` of every Resize of the data loaders,
                          `output_size` of every Mosaic (half the longer side), `base_size` or
                          `scales` of their collate functions; one number is a square
    in_channels: C        stays; `mean` and `std` of three values of every Normalize become C, as
                          the stem's weights are folded: channel i has those of channel i mod 3,
                          a single one the mean of the three
    plugins: [./block.py] absolute paths, from the file that names them
    distillation: {…}     `type: Distillation`, where the section names none
    data, epochs, schedule: auto
                          stay: the engine reads the data set and plans the epochs, with what
                          the included files had as `epochs` (`base_epochs`) for a measure

A value that was set later than the short form (a flag, an including file) keeps its value.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detrkit.config.tree import Keys, Origin, Tree, walk
from detrkit.errors import Problem

#: Sides of images are multiples of this.
_STRIDE = 32


def expand(tree: Tree) -> list[Problem]:
    """Expands the short forms of a merged tree in place; returns what is wrong with them."""
    _anchor_plugins(tree)
    _name_distillation(tree)
    return [*_expand_image_size(tree), *_expand_channels(tree)]


def remember_base(base: Any, layer: Tree) -> None:
    """Notes in `layer` the epochs (`base`) that its own replace, if it says `schedule: auto`."""
    auto = layer.data.get("schedule") == "auto" and "epochs" in layer.data
    if auto and base is not None and "base_epochs" not in layer.data:
        layer.set(("base_epochs",), base, layer.origins["epochs",])


def _anchor_plugins(tree: Tree) -> None:
    plugins = tree.data.get("plugins")
    if not isinstance(plugins, list):
        return
    for index, plugin in enumerate(plugins):
        origin = tree.origins.get(("plugins", index), Origin())
        if isinstance(plugin, str):
            folder = Path(origin.file).parent if origin.file else Path.cwd()
            plugins[index] = os.path.normpath(folder / Path(plugin).expanduser())


def _name_distillation(tree: Tree) -> None:
    section = tree.data.get("distillation")
    if isinstance(section, dict) and "type" not in section:
        origin = tree.origins.get(("distillation",), Origin())
        tree.set(("distillation", "type"), "Distillation", origin)


def _expand_image_size(tree: Tree) -> list[Problem]:
    if "image_size" not in tree.data:
        return []
    value, origin = tree.data["image_size"], tree.origins[("image_size",)]
    tree.remove(("image_size",))
    if value is None:
        return []
    size = [value, value] if isinstance(value, int) and not isinstance(value, bool) else value
    if not (
        isinstance(size, (list, tuple))
        and len(size) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in size)
    ):
        return [Problem(str(origin), f"image_size: expected [h, w] in pixels, got {value!r}")]
    size = [int(side) for side in size]
    targets: list[tuple[Keys, Any]] = [(("eval_spatial_size",), size)]
    for loader in ("train_dataloader", "val_dataloader"):
        section = tree.data.get(loader)
        for keys, node in walk(section, (loader,)):
            if isinstance(node, dict) and node.get("type") == "Resize":
                targets.append(((*keys, "size"), size))
            if isinstance(node, dict) and node.get("type") == "Mosaic":
                targets.append(((*keys, "output_size"), max(max(size) // 2, 1)))
        if isinstance(section, dict) and isinstance(section.get("collate_fn"), dict):
            collate = section["collate_fn"]
            if collate.get("base_size") is not None:
                base = size[0] if size[0] == size[1] else size
                targets.append(((loader, "collate_fn", "base_size"), base))
            if isinstance(collate.get("scales"), list) and collate["scales"]:
                scales = _rescaled(collate["scales"], size)
                targets.append(((loader, "collate_fn", "scales"), scales))
    for keys, target in targets:
        set_at = tree.origins.get(keys)
        if set_at is not None and set_at.layer > origin.layer:
            continue
        tree.set(keys, target, origin)
    return []


def _expand_channels(tree: Tree) -> list[Problem]:
    if tree.data.get("in_channels") in (None, 3):
        return []
    channels, origin = tree.data["in_channels"], tree.origins[("in_channels",)]
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
        return [Problem(str(origin), f"in_channels: expected 1 or more, got {channels!r}")]
    for loader in ("train_dataloader", "val_dataloader"):
        for keys, node in list(walk(tree.data.get(loader), (loader,))):
            if not isinstance(node, dict) or node.get("type") != "Normalize":
                continue
            for name in ("mean", "std"):
                values, set_at = node.get(name), tree.origins.get((*keys, name))
                earlier = set_at is None or set_at.layer <= origin.layer
                if earlier and isinstance(values, (list, tuple)) and len(values) == 3:
                    tree.set((*keys, name), _for_channels(values, channels), origin)
    return []


def _for_channels(values: Sequence[Any], channels: int) -> list[Any]:
    if channels == 1:
        return [sum(values) / len(values)]
    return [values[i % len(values)] for i in range(channels)]


def _rescaled(scales: list[Any], size: list[int]) -> list[Any]:
    """Sizes to draw from, around another one: the middle of the old ones becomes `size`."""
    longest = [max(scale) if isinstance(scale, (list, tuple)) else scale for scale in scales]
    middle = (min(longest) + max(longest)) / 2
    sizes = [
        [max(round(side * scale / middle / _STRIDE), 1) * _STRIDE for side in size]
        for scale in longest
    ]
    return sizes if size[0] != size[1] else [height for height, _ in sizes]
