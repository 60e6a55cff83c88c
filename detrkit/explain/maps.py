"""The layers of a detector that lie over the image."""

from __future__ import annotations

from collections.abc import Iterable

from detrkit.engine.predictor import Predictor
from detrkit.engine.runtime import Runtime
from detrkit.explain.attention import prefix_of
from detrkit.explain.cam import grid_of
from detrkit.explain.layers import Layer, choose, list_layers, network, torch_runtime

#: Pixels of the image by a cell of a map.
_STRIDES = (1, 2, 4, 8, 16, 32, 64, 128)


def choose_maps(detector: Predictor | Runtime, wanted: Iterable[str]) -> list[Layer]:
    """The layers that `choose` finds; of those that a pattern means the ones over the image.

    A layer that is named is taken whatever it is, and so are those of a pattern that means none
    over the image: who reads them says what is wrong.

    Raises:
        UsageError: an exported file; an unknown layer.
    """
    layers = list_layers(detector)
    size = torch_runtime(detector).image_spec.size
    prefix = prefix_of(network(detector))
    chosen: dict[str, Layer] = {}
    for text in wanted:
        found = choose(layers, [text])
        if "*" in text or "?" in text:
            found = [layer for layer in found if lies_over(layer, size, prefix)] or found
        chosen.update((layer.name, layer) for layer in found)
    return list(chosen.values())


def lies_over(layer: Layer, size: tuple[int, int], prefix: int = 0) -> bool:
    """Whether the cells or tokens of a layer are places of an image.

    Args:
        layer: for one image.
        size: (H, W) of the image.
        prefix: tokens that stand before those of the image inside a vision transformer.
    """
    if len(layer.shape) == 4:
        h, w = layer.shape[2:]
        return any(
            h in (size[0] // s, -(-size[0] // s)) and w in (size[1] // s, -(-size[1] // s))
            for s in _STRIDES
        )
    if len(layer.shape) != 3 or layer.name.startswith("decoder."):  # queries are no places
        return False
    return any(grid_of(layer.shape[1] - before, size) is not None for before in (prefix, 0))
